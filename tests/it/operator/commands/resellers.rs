//! `mortise reseller`.

use std::path::Path;

use super::Operator;
use crate::harness::hash;

/// A new reseller creates a group, creates cards in it and sells one, with nothing but the output of the command.
#[tokio::test]
async fn created_reseller_can_create_a_group_and_sell_at_once() {
    for dialect in ["documented", "x7"] {
        let operator = Operator::with(&[("dialect", dialect)]).await;
        let created = operator.run_json(&["reseller", "create", "Card World"]);
        let field = |name: &str| created[name].as_str().unwrap().to_owned();
        let (key, password) = (field("key"), field("password"));
        assert_eq!(
            (created["username"].as_str(), field("permission_group").as_str()),
            (Some("Card World"), "Resellers")
        );
        let post = async |operation: &str, form: &str, hashed: &str| {
            let form = format!("u=card world&p={password}&{form}&hash={}", hash(hashed, &key));
            operator.server.post(operation, &form).await
        };
        let group =
            post("cc_group_create", "name=Ten&price=10&pin_length=8&number_length=10&currency=USD", "Ten").await;
        assert!(group.body.contains("Card Group was successfully created"), "{dialect}: {}", group.body);
        let id = operator.server.rows("select id from cardgroups where name = 'Ten'").await.remove(0);
        let cards = post(
            "calling_cards_create",
            &format!("card_group_id={id}&cards_from=1000000000&cards_till=1000000001"),
            &format!("{id}10000000001000000001"),
        )
        .await;
        assert!(cards.body.contains("Cards created: 2/2"), "{dialect}: {}", cards.body);
        let sale = post("card_from_group_sell", &format!("id={id}&quantity=1"), &format!("{id}1")).await;
        assert_eq!(sale.element_texts("number").len(), 1, "{dialect}: {}", sale.body);
        let own = "select u.usertype, u.owner_id, t.owner_id = u.id as own_tariff, t.purpose, l.user_id = u.id as own_lcr,
                g.owner_id = u.id as own_group, g.tariff_id = u.tariff_id as group_tariff, u.tax_id > 100 as own_taxes
            from users u join tariffs t on t.id = u.tariff_id join lcrs l on l.id = u.lcr_id join cardgroups g on g.name = 'Ten'
            where u.username = 'Card World'";
        operator.server.assert_rows(own, &["reseller|0|true|user|true|true|true|true"]).await;
    }
}

#[tokio::test]
async fn creation_is_in_the_change_log_without_secrets() {
    let operator = Operator::new().await;
    let text = operator.run_ok(&["reseller", "create", "shop2"]);
    assert!(
        text.starts_with("The reseller shop2 was created, with id 101, the rights of Resellers, the tariff ")
            && text.ends_with("They are shown only this once.\n"),
        "{text}"
    );
    let key =
        operator.server.rows("select value from conflines where name = 'API_Secret_Key' and owner_id = 101").await;
    assert!(text.contains(&format!("API secret key:  {}\n", key[0])), "{text}");
    operator
        .server
        .assert_rows(
            "select what, target_name from change_log order by id",
            &["right|Resellers", "user|shop2", "tariff|shop2", "setting|Allow_API", "key|shop2"],
        )
        .await;
    operator
        .server
        .assert_rows(
            "select after -> 'lcr' = to_jsonb(l), after -> 'taxes' = to_jsonb(t) from change_log
             join users u on u.id = target_id join lcrs l on l.id = u.lcr_id join taxes t on t.id = u.tax_id where what = 'user'",
            &["true|true"],
        )
        .await;
    let log = operator.server.rows("select row_to_json(change_log)::text as line from change_log").await.join("");
    assert!(!log.contains(&key[0]) && !log.contains("argon2id$"), "{log}");
    // A second reseller gets the same rights.
    operator.run_ok(&["reseller", "create", "shop3"]);
    operator
        .server
        .assert_rows(
            "select count(*) from users u join acc_groups g on g.id = u.acc_group_id where u.usertype = 'reseller' and g.name = 'Resellers'",
            &["2"],
        )
        .await;
}

#[tokio::test]
async fn given_password_is_used_and_not_printed() {
    let operator = Operator::new().await;
    let directory = tempfile::tempdir().unwrap();
    let file = |content: &str| {
        let path = directory.path().join("password");
        std::fs::write(&path, content).unwrap();
        path
    };
    let create =
        |path: &Path| operator.run(&["reseller", "create", "shop2", "--password-file", path.to_str().unwrap()]);
    let short = create(&file("too short\n"));
    assert!(short.code == 2 && short.stderr.contains("the password has fewer than 12 characters"), "{short:?}");
    operator.server.assert_rows("select count(*) from users where username = 'shop2'", &["0"]).await;
    let created = create(&file("a long password\r\nanother line\n"));
    assert!(created.code == 0 && !created.stdout.contains("assword"), "{created:?}");
    let key =
        operator.server.rows("select value from conflines where name = 'API_Secret_Key' and owner_id = 101").await;
    let form = format!("u=shop2&p=a long password&id=12&hash={}", hash("12", &key[0]));
    let reply = operator.server.post("card_from_group_sell", &form).await;
    assert!(!reply.body.contains("Bad login"), "{}", reply.body);
    let missing = create(Path::new("/nowhere"));
    assert!(missing.code == 2 && missing.stderr.contains("cannot read the password from /nowhere"), "{missing:?}");
}

#[tokio::test]
async fn invalid_resellers_are_refused_and_leave_nothing() {
    let operator = Operator::new().await;
    operator
        .server
        .execute(
            "insert into acc_groups (id, name, group_type) values
                (1, 'Clerks', 'accountant'), (4, 'Sellers', 'reseller'), (5, 'Readers', 'reseller')",
        )
        .await;
    for (arguments, code, message) in [
        (&["RESELLER"][..], 1, "the user \"reseller\" already exists (id 3)"),
        (&["new", "--rights", "Clerks"], 1, "the permission group Clerks is for users of the type accountant"),
        (&["new", "--rights", "readers"], 1, "run `mortise right set \"Readers\" calling_cards edit`"),
        (&["new", "--rights", "Nobodies"], 3, "there is no permission group \"Nobodies\""),
        (&["new\u{200b}"], 2, "invisible character"),
        (&[""], 2, "a name has 1 to 255 characters"),
    ] {
        operator.assert_error(&[&["reseller", "create"], arguments].concat(), code, message);
    }
    operator.server.assert_rows("select count(*) from users", &["11"]).await;
    operator.server.assert_rows("select count(*) from tariffs", &["0"]).await;
    operator.server.assert_rows("select count(*) from change_log", &["0"]).await;
    let created = operator.run_json(&["reseller", "create", "new", "--rights", "sellers"]);
    assert_eq!(created["permission_group"], "Sellers");
}
