//! `mortise right`.

use super::{ADMITTED, Operator};

#[tokio::test]
async fn permission_changes_take_effect_at_once() {
    let operator = Operator::new().await;
    operator.attempt_sale("accountant_none", "secret").await.assert_status_error("Access Denied");
    operator.assert_error(
        &["right", "set", "Shop", "callingcard_manage", "edit"],
        3,
        "there is no permission group \"Shop\"",
    );
    let output = operator.run_ok(&["right", "set", "Shop", "callingcard_MANAGE", "edit", "--create", "accountant"]);
    assert_eq!(output, "Callingcard_manage of the permission group Shop is edit now.\n");
    // The fixtures have a row with this value for the group's id.
    operator.assert_changes(&["right 1 Shop -> {\"type\": \"accountant\", \"permission_group\": \"Shop\"}"]).await;
    assert_eq!(
        operator.run_ok(&["right", "give", "shop", "accountant_none"]),
        "accountant_none has the rights of shop now.\n"
    );
    operator.attempt_sale("accountant_none", "secret").await.assert_page_error(ADMITTED);
    operator
        .assert_changes(&["user 9 accountant_none {\"permission_group\": null} -> {\"permission_group\": \"shop\"}"])
        .await;
    operator.run_ok(&["right", "set", "shop", "callingcard_manage", "none"]);
    operator.assert_changes(&["right 1 shop {\"Callingcard_manage\": 2} -> {\"Callingcard_manage\": 0}"]).await;
    operator.attempt_sale("accountant_none", "secret").await.assert_status_error("Access Denied");
    let message = "Shop is a permission group of the type accountant, calling_cards is a right of the type reseller";
    operator.assert_error(&["right", "set", "Shop", "calling_cards", "edit"], 1, message);
    let message = "calling_cards is a right of the type reseller";
    operator.assert_error(&["right", "set", "New", "calling_cards", "edit", "--create", "accountant"], 1, message);
    operator.assert_error(&["right", "set", "Shop", "fly", "edit"], 3, "available: Callingcard_manage, calling_cards");
    operator.assert_error(&["right", "set", "Shop", "callingcard_manage", "2"], 2, "invalid value '2'");
    operator.assert_error(
        &["right", "give", "Shop", "reseller"],
        1,
        "is for users of the type accountant, not reseller",
    );
}

#[tokio::test]
async fn permission_groups_are_listed_with_rights_and_members() {
    let operator = Operator::new().await;
    operator
        .server
        .execute(
            "insert into acc_groups (id, name, group_type)
             values (1, 'Clerks', 'accountant'), (4, 'Agents', 'reseller')",
        )
        .await;
    assert_eq!(
        operator.run_ok(&["right", "list"]),
        "ID  GROUP   TYPE        RIGHT               VALUE  MEMBERS\n\
         1   Clerks  accountant  Callingcard_manage  edit   accountant\n\
         4   Agents  reseller    calling_cards       edit   reseller, partner\n"
    );
    let json = operator.run_json(&["right", "list"]);
    assert_eq!(json[1]["members"], serde_json::json!(["reseller", "partner"]));
    // If a right has two rows, the server reads the one with the lower id; the command changes both.
    operator.server.execute("insert into acc_group_rights (acc_group_id, acc_right_id, value) values (1, 1, 0)").await;
    assert_eq!(operator.run_json(&["right", "list"])[0]["value"], 2);
    operator.run_ok(&["right", "set", "Clerks", "Callingcard_manage", "read"]);
    operator.server.assert_rows("select value from acc_group_rights where acc_group_id = 1", &["1", "1"]).await;
}
