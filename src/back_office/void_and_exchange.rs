//! What happened to a card that its row does not say: its void, and its exchange for another card.

use serde::Serialize;
use sqlx::PgConnection;

/// The void of a card, and the cards of an exchange.
#[derive(Debug, Serialize)]
pub struct VoidAndExchange {
    /// The day and the reason of its void: 3 Nov 2026 (the wrong card).
    pub voided: Option<String>,
    /// The id of the card that replaces it.
    pub replaced_by: Option<i64>,
    /// The number of that card, or else its id.
    pub replaced_by_number: Option<String>,
    /// The id of the card that it replaces.
    pub replaces: Option<i64>,
}

impl VoidAndExchange {
    pub(super) async fn load(connection: &mut PgConnection, card_id: i64) -> sqlx::Result<Self> {
        sqlx::query_as!(
            Self,
            r#"select
                   (select to_char(at, 'FMDD Mon YYYY') || ' (' || (after ->> 'voided') || ')' from change_log
                    where what = 'card' and target_id = $1 and after ->> 'voided' is not null order by id + 0 limit 1) as voided,
                   replacing.id as "replaced_by?", coalesce(replacing.number, replacing.id::text) as replaced_by_number,
                   (select replaces_card from payments where user_id = $1 and kind in ('sale', 'reissue')) as replaces
               from (select) card
               left join payments p on p.replaces_card = $1
               left join cards replacing on replacing.id = p.user_id"#,
            card_id
        )
        .fetch_one(connection)
        .await
    }
}
