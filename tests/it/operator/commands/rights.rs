//! `mortise right`.

use super::{ADMITTED, Operator};

#[tokio::test]
async fn a_right_that_is_set_counts_at_once() {
    let operator = Operator::new().await;
    operator.ask("accountant_none", "secret").await.assert_status_error("Access Denied");
    operator.refuses(
        &["right", "set", "Shop", "callingcard_manage", "edit"],
        3,
        "there is no permission group \"Shop\"",
    );
    let said = operator.says(&["right", "set", "Shop", "callingcard_MANAGE", "edit", "--create", "accountant"]);
    assert_eq!(said, "Callingcard_manage of the permission group Shop is edit now.\n");
    assert_eq!(
        operator.says(&["right", "give", "shop", "accountant_none"]),
        "accountant_none has the rights of shop now.\n"
    );
    operator.ask("accountant_none", "secret").await.assert_page_error(ADMITTED);
    operator
        .noted(&[
            "0|permission_changed|AccGroup|1|Callingcard_manage|2",
            "0|user_permission_group_changed|User|9|accountant_none|shop",
        ])
        .await;
    operator.says(&["right", "set", "shop", "callingcard_manage", "none"]);
    operator.ask("accountant_none", "secret").await.assert_status_error("Access Denied");
    let words = "Shop is a permission group of the type accountant, calling_cards a right of the type reseller";
    operator.refuses(&["right", "set", "Shop", "calling_cards", "edit"], 1, words);
    let words = "calling_cards is a right of the type reseller";
    operator.refuses(&["right", "set", "New", "calling_cards", "edit", "--create", "accountant"], 1, words);
    operator.refuses(&["right", "set", "Shop", "fly", "edit"], 3, "there are Callingcard_manage, calling_cards");
    operator.refuses(&["right", "set", "Shop", "callingcard_manage", "2"], 2, "invalid value '2'");
    operator.refuses(&["right", "give", "Shop", "reseller"], 1, "is for users of the type accountant, not reseller");
}

#[tokio::test]
async fn groups_are_listed_with_rights_and_members() {
    let operator = Operator::new().await;
    operator.server.execute("insert into acc_groups (id, name, group_type) values (1, 'Clerks', 'accountant'), (4, 'Agents', 'reseller')").await;
    assert_eq!(
        operator.says(&["right", "list"]),
        "ID  GROUP   TYPE        RIGHT               VALUE  MEMBERS\n\
         1   Clerks  accountant  Callingcard_manage  edit   accountant\n\
         4   Agents  reseller    calling_cards       edit   reseller, partner\n"
    );
    let json = operator.json(&["right", "list"]);
    assert_eq!(json[1]["members"], serde_json::json!(["reseller", "partner"]));
    // Where a right stands twice, the server goes by the lower id; both are set.
    operator.server.execute("insert into acc_group_rights (acc_group_id, acc_right_id, value) values (1, 1, 0)").await;
    assert_eq!(operator.json(&["right", "list"])[0]["value"], 2);
    operator.says(&["right", "set", "Clerks", "Callingcard_manage", "read"]);
    operator.server.assert_rows("select value from acc_group_rights where acc_group_id = 1", &["1", "1"]).await;
}
