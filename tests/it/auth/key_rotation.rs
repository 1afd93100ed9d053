//! Key rotation: the previous secret key stays valid until a given time.

use crate::harness::log::LogCapture;
use crate::harness::{Reply, Server, hash, server_with_settings};

const SELL: &str = "card_from_group_sell";
/// The reply to an admitted sale: the group has no cards.
const ADMITTED: &str = "Free cards was not found";

/// Sends a sale from an empty group.
async fn sell(server: &Server, user: &str, key: &str) -> Reply {
    server.post(SELL, &format!("u={user}&id=11&hash={}", hash("11", key))).await
}

/// Returns the SQL that does the same as `mortise key rotate` (tested in `commands/keys.rs`), with the new key `new`.
fn rotate(owner: i32, until: &str) -> String {
    format!(
        "begin;
         delete from conflines where owner_id = {owner} and name = 'API_Secret_Key_Previous';
         insert into conflines (owner_id, name, value, value2) select {owner}, 'API_Secret_Key_Previous', value, {until}
         from conflines where owner_id = {owner} and name = 'API_Secret_Key' order by id limit 1;
         update conflines set value = 'new' where owner_id = {owner} and name = 'API_Secret_Key';
         commit"
    )
}

/// A time in a week, in the format that the command writes.
const IN_A_WEEK: &str = "to_char(now() at time zone 'utc' + interval '7 days', 'YYYY-MM-DD HH24:MI:SS')";

#[tokio::test]
async fn previous_key_is_valid_until_it_expires() {
    for dialect in ["documented", "x7"] {
        let server = server_with_settings(&[("dialect", dialect)]).await;
        let log = LogCapture::start();
        for until in [IN_A_WEEK, "'2999-12-31T23:59:59Z'", "'2999-12-31 23:59:59'", "' 2999-12-31 23:59:59.123456 '"] {
            server
                .execute("update conflines set value = 'secret' where name = 'API_Secret_Key' and owner_id = 0")
                .await;
            server.execute(&rotate(0, until)).await;
            for user in ["admin", "accountant"] {
                sell(&server, user, "secret").await.assert_page_error(ADMITTED);
                sell(&server, user, "new").await.assert_page_error(ADMITTED);
                sell(&server, user, "older").await.assert_status_error("Incorrect hash");
            }
        }
        assert_eq!(log.count("previous secret key used"), 8);
        server
            .execute("update conflines set value2 = '2020-01-01T00:00:00Z' where name = 'API_Secret_Key_Previous'")
            .await;
        sell(&server, "admin", "secret").await.assert_status_error("Incorrect hash");
        sell(&server, "admin", "new").await.assert_page_error(ADMITTED);
        assert_eq!(log.count("previous key ignored"), 0);
    }
}

#[tokio::test]
async fn second_rotation_invalidates_the_first_key() {
    let server = server_with_settings(&[]).await;
    server.execute(&rotate(0, IN_A_WEEK)).await;
    server.execute(&rotate(0, IN_A_WEEK).replace("'new'", "'newer'")).await;
    sell(&server, "admin", "secret").await.assert_status_error("Incorrect hash");
    sell(&server, "admin", "new").await.assert_page_error(ADMITTED);
    sell(&server, "admin", "newer").await.assert_page_error(ADMITTED);
}

#[tokio::test]
async fn unreadable_expiry_invalidates_the_key_and_is_logged() {
    for dialect in ["documented", "x7"] {
        let server = server_with_settings(&[("dialect", dialect)]).await;
        let log = LogCapture::start();
        for until in
            ["null", "''", "'next week'", "'2999-12-31'", "'2999-12-31T23:59:59+02:00'", "'2999-13-01 00:00:00'"]
        {
            server
                .execute("update conflines set value = 'secret' where name = 'API_Secret_Key' and owner_id = 0")
                .await;
            server.execute(&rotate(0, until)).await;
            let before = log.count("previous key ignored");
            sell(&server, "admin", "secret").await.assert_status_error("Incorrect hash");
            assert!(log.count("previous key ignored") > before, "{until}");
            sell(&server, "admin", "new").await.assert_page_error(ADMITTED);
        }
    }
}

#[tokio::test]
async fn reseller_has_its_own_previous_key() {
    for dialect in ["documented", "x7"] {
        let server = server_with_settings(&[("dialect", dialect)]).await;
        server.execute(&rotate(3, IN_A_WEEK)).await;
        for key in ["reskey", "new", "secret"] {
            sell(&server, "reseller", key).await.assert_page_error("Cardgroup was not found");
        }
        sell(&server, "customer", "reskey").await.assert_status_error("Access Denied");
        sell(&server, "admin", "reskey").await.assert_status_error("Incorrect hash");
        // While the admin's API is on, the reseller can also use the admin's previous key.
        server.execute(&rotate(0, IN_A_WEEK).replace("'new'", "'admins'")).await;
        for key in ["secret", "admins", "reskey", "new"] {
            sell(&server, "reseller", key).await.assert_page_error("Cardgroup was not found");
        }
        server.execute("update conflines set value = '0' where name = 'Allow_API' and owner_id = 0").await;
        sell(&server, "reseller", "secret").await.assert_status_error("Incorrect hash");
        sell(&server, "reseller", "reskey").await.assert_page_error("Cardgroup was not found");
    }
}

/// An empty current key locks out all users at once.
#[tokio::test]
async fn previous_key_is_invalid_without_a_current_key() {
    let server = server_with_settings(&[]).await;
    server.execute(&rotate(0, IN_A_WEEK)).await;
    server.execute("update conflines set value = '' where name = 'API_Secret_Key'").await;
    sell(&server, "admin", "secret").await.assert_status_error("API must have Secret Key");
    // An empty previous key is not valid either.
    server
        .execute(
            "update conflines set value = 'new' where name = 'API_Secret_Key';
             update conflines set value = '' where name = 'API_Secret_Key_Previous'",
        )
        .await;
    sell(&server, "admin", "").await.assert_status_error("Incorrect hash");
}
