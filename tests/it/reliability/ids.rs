//! Ids beyond the range of a 32-bit integer.

use crate::harness::{server, x7_server};

/// The next id of each table that grows with traffic is the last 32-bit integer.
const SEQUENCES_NEAR_END: &str = "
    select setval(sequence, 2147483646)
    from unnest(array['actions_id_seq', 'payments_id_seq', 'ccorders_id_seq', 'cclineitems_id_seq', 'cards_id_seq']) sequence";

#[tokio::test]
async fn sales_continue_beyond_the_last_32_bit_id() {
    let server = server().await;
    server.execute(SEQUENCES_NEAR_END).await;
    server
        .execute("insert into cards (cardgroup_id, number, pin, balance) values (11, '110001', '1', 7), (11, '110002', '2', 7)")
        .await;
    for (form, hashed) in [
        ("u=admin&id=11&quantity=1&email=buyer@example.com", "buyer@example.com111"),
        ("u=admin&id=11&quantity=1&email=buyer@example.com", "buyer@example.com111"),
        ("u=admin&id=6&quantity=2&request_id=key", "62"),
    ] {
        let reply = server.post_signed("card_from_group_sell", form, hashed).await;
        assert!(!reply.element_texts("pin").is_empty(), "{reply:?}");
    }
    for (table, ids) in [
        ("payments", ["2147483647", "2147483648", "2147483649", "2147483650"].as_slice()),
        ("actions", &["2147483647", "2147483648", "2147483649", "2147483650", "2147483651", "2147483652"]),
        ("ccorders", &["2147483647", "2147483648"]),
        ("cclineitems", &["2147483647", "2147483648"]),
    ] {
        let query = format!("select id from {table} order by id limit 6");
        server.assert_rows(&query, ids).await;
    }
    // A payment names its card, an item its order and its card.
    server
        .assert_rows(
            "select user_id from payments where kind = 'sale' order by id",
            &["2147483647", "2147483648", "6", "2"],
        )
        .await;
    server
        .assert_rows(
            "select ccorder_id, card_id from cclineitems order by id",
            &["2147483647|2147483647", "2147483648|2147483648"],
        )
        .await;
    // The card is in the audit row of its payment.
    server
        .assert_rows(
            "select target_id, data from actions where action = 'card_payment_created' order by id limit 2",
            &["2147483647|2147483647", "2147483648|2147483648"],
        )
        .await;
}

#[tokio::test]
async fn cards_with_large_ids_are_listed_and_topped_up() {
    for server in [server().await, x7_server().await] {
        server.execute("insert into conflines (name, value) values ('API_Allow_payments_ower_API', '1')").await;
        server.execute(SEQUENCES_NEAR_END).await;
        server.execute("select setval('cards_id_seq', 3000000000)").await;
        server.execute("insert into cards (cardgroup_id, number, pin, balance) values (11, '110001', '9901', 7)").await;
        let sold = server.post_signed("card_from_group_sell", "u=admin&id=11&quantity=1", "111").await;
        assert_eq!(sold.element_texts("number"), ["110001"], "{sold:?}");
        let list = server.post_signed("calling_cards_get", "u=admin&number=110001", "").await;
        assert_eq!(list.element_texts("card_id"), ["3000000001"], "{list:?}");
        let paid =
            server.post_signed("card_payment_add", "u=admin&number=110001&amount=5&currency=USD", "1100015USD").await;
        assert!(!paid.body.contains("<error>"), "{paid:?}");
        server
            .assert_rows(
                "select id, user_id, kind from payments order by id",
                &["2147483647|3000000001|sale", "2147483648|3000000001|top_up"],
            )
            .await;
    }
}
