//! A new key without a gap: the one before it counts until a given time.

use crate::harness::log::LogCapture;
use crate::harness::{Reply, Server, hash, server_with_settings};

const SELL: &str = "card_from_group_sell";
const ADMITTED: &str = "Free cards was not found";

async fn ask(server: &Server, user: &str, key: &str) -> Reply {
    server.post(SELL, &format!("u={user}&id=11&hash={}", hash("11", key))).await
}

/// What `mortise key rotate` does (`commands/keys.rs` tests that), for an owner whose new key is `new`.
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

/// The time in the form that the command writes.
const IN_A_WEEK: &str = "to_char(now() at time zone 'utc' + interval '7 days', 'YYYY-MM-DD HH24:MI:SS')";

#[tokio::test]
async fn the_previous_key_counts_until_its_time() {
    for dialect in ["documented", "x7"] {
        let server = server_with_settings(&[("dialect", dialect)]).await;
        let log = LogCapture::start();
        for until in [IN_A_WEEK, "'2999-12-31T23:59:59Z'", "'2999-12-31 23:59:59'", "' 2999-12-31 23:59:59.123456 '"] {
            server
                .execute("update conflines set value = 'secret' where name = 'API_Secret_Key' and owner_id = 0")
                .await;
            server.execute(&rotate(0, until)).await;
            for user in ["admin", "accountant"] {
                ask(&server, user, "secret").await.assert_page_error(ADMITTED);
                ask(&server, user, "new").await.assert_page_error(ADMITTED);
                ask(&server, user, "older").await.assert_status_error("Incorrect hash");
            }
        }
        assert_eq!(log.count("a hash with the previous key"), 8);
        server
            .execute("update conflines set value2 = '2020-01-01T00:00:00Z' where name = 'API_Secret_Key_Previous'")
            .await;
        ask(&server, "admin", "secret").await.assert_status_error("Incorrect hash");
        ask(&server, "admin", "new").await.assert_page_error(ADMITTED);
        assert_eq!(log.count("that key is over"), 0);
    }
}

#[tokio::test]
async fn a_second_rotation_ends_the_key_before_the_first() {
    let server = server_with_settings(&[]).await;
    server.execute(&rotate(0, IN_A_WEEK)).await;
    server.execute(&rotate(0, IN_A_WEEK).replace("'new'", "'newer'")).await;
    ask(&server, "admin", "secret").await.assert_status_error("Incorrect hash");
    ask(&server, "admin", "new").await.assert_page_error(ADMITTED);
    ask(&server, "admin", "newer").await.assert_page_error(ADMITTED);
}

#[tokio::test]
async fn a_time_that_cannot_be_read_is_over_and_logged() {
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
            let before = log.count("that key is over");
            ask(&server, "admin", "secret").await.assert_status_error("Incorrect hash");
            assert!(log.count("that key is over") > before, "{until}");
            ask(&server, "admin", "new").await.assert_page_error(ADMITTED);
        }
    }
}

#[tokio::test]
async fn a_reseller_has_a_previous_key_of_its_own() {
    for dialect in ["documented", "x7"] {
        let server = server_with_settings(&[("dialect", dialect)]).await;
        server.execute(&rotate(3, IN_A_WEEK)).await;
        for key in ["reskey", "new", "secret"] {
            ask(&server, "reseller", key).await.assert_page_error("Cardgroup was not found");
        }
        ask(&server, "customer", "reskey").await.assert_status_error("Access Denied");
        ask(&server, "admin", "reskey").await.assert_status_error("Incorrect hash");
        // While the admin's API is on, the admin's previous key is the reseller's too.
        server.execute(&rotate(0, IN_A_WEEK).replace("'new'", "'admins'")).await;
        for key in ["secret", "admins", "reskey", "new"] {
            ask(&server, "reseller", key).await.assert_page_error("Cardgroup was not found");
        }
        server.execute("update conflines set value = '0' where name = 'Allow_API' and owner_id = 0").await;
        ask(&server, "reseller", "secret").await.assert_status_error("Incorrect hash");
        ask(&server, "reseller", "reskey").await.assert_page_error("Cardgroup was not found");
    }
}

/// Who empties the key shuts everybody out, at once.
#[tokio::test]
async fn without_a_key_the_previous_one_is_none() {
    let server = server_with_settings(&[]).await;
    server.execute(&rotate(0, IN_A_WEEK)).await;
    server.execute("update conflines set value = '' where name = 'API_Secret_Key'").await;
    ask(&server, "admin", "secret").await.assert_status_error("API must have Secret Key");
    // Nor is an empty previous key one.
    server.execute("update conflines set value = 'new' where name = 'API_Secret_Key'; update conflines set value = '' where name = 'API_Secret_Key_Previous'").await;
    ask(&server, "admin", "").await.assert_status_error("Incorrect hash");
}
