//! Replaces a sold card by a free one of its group, which gets exactly its balance.

use bigdecimal::BigDecimal;
use serde::Serialize;
use serde_json::{Map, Value};
use sqlx::PgConnection;

use super::lookup::{CardKey, find_card};
use super::outbox::remove_cards_from_mails;
use super::payments::audit_payments;
use super::{BackOfficeError, replaced_cards};
use crate::money::Money;
use crate::store::caller_id;
use crate::store::card::retire;
use crate::store::change_log::{Author, RowChange, What};

/// A card to replace.
#[derive(Debug)]
pub struct Reissue<'a> {
    /// The id of the old card.
    pub card_id: i64,
    /// Why. The change log gets it.
    pub reason: &'a str,
    /// The number of the new card. `None`: the next free card of the group.
    pub to: Option<&'a str>,
}

/// The card that replaces another one, and what else happened.
#[derive(Debug, Serialize)]
pub struct NewCard {
    /// The id in the table `cards`.
    pub id: i64,
    /// The card number.
    pub number: String,
    /// In the system's currency, without tax.
    pub balance: Money,
    /// Whether the old card was replaced before. Nothing was written then.
    pub already_replaced: bool,
    /// The e-mails that were not sent yet and lost the old card: they would have sent the PIN of a retired card.
    #[serde(skip)]
    pub mails: Vec<i64>,
}

/// The locked card to replace.
struct OldCard {
    number: String,
    cardgroup_id: i32,
    sold: bool,
    state: String,
    balance: BigDecimal,
    callerid: Option<String>,
}

/// The locked card that replaces it.
struct FreeCard {
    id: i64,
    number: String,
    face_value: BigDecimal,
}

impl Reissue<'_> {
    /// Replaces the card, in the caller's transaction.
    ///
    /// # Errors
    ///
    /// [`BackOfficeError::NotFound`] if a card does not exist, [`BackOfficeError::Refused`] if the old card is not
    /// sold or the new one is not free.
    pub async fn run(&self, connection: &mut PgConnection, author: &Author) -> Result<NewCard, BackOfficeError> {
        let to = match self.to {
            Some(number) => Some(self.find_new(&mut *connection, number).await?),
            None => None,
        };
        let callerid = self.lock_callerid(&mut *connection).await?;
        let old = self.lock(&mut *connection, to).await?;
        if let Some(new) = self.find_replacing(&mut *connection).await? {
            return match to.filter(|to| *to != new.id) {
                Some(_) => {
                    let (old, new) = (old.number, new.number);
                    Err(BackOfficeError::Refused(format!("the card {old} was replaced by the card {new}")))
                }
                None => Ok(new),
            };
        }
        if let Some(message) = refusal(&old.number, &old.state, old.sold) {
            return Err(BackOfficeError::Refused(message));
        }
        if old.callerid != callerid && old.callerid.is_some() {
            let message = format!("the caller id of the card {} was changed at the same time: try again", old.number);
            return Err(BackOfficeError::Refused(message));
        }
        let new = match to {
            Some(id) => read_free(&mut *connection, id, old.cardgroup_id).await?,
            None => lock_next_free(&mut *connection, old.cardgroup_id).await?,
        };
        let old_change = RowChange::begin(&mut *connection, What::Card, self.card_id).await?;
        let new_change = RowChange::begin(&mut *connection, What::Card, new.id).await?;
        self.write(&mut *connection, &old, &new, author).await?;
        let cards = replaced_cards(&mut *connection, self.card_id).await?;
        let mails = remove_cards_from_mails(&mut *connection, &cards).await?;
        let details = |name: &str, number: &str| {
            let fields = [(name, number), ("reason", self.reason)];
            fields.into_iter().map(|(name, text)| (name.to_owned(), Value::from(text))).collect::<Map<_, _>>()
        };
        let mut old_details = details("replaced_by", &new.number);
        if !mails.is_empty() {
            old_details.insert("mails".to_owned(), Value::from(mails.as_slice()));
        }
        old_change.record_with(&mut *connection, author, old_details).await?;
        new_change.record_with(&mut *connection, author, details("replaces", &old.number)).await?;
        Ok(NewCard { id: new.id, number: new.number, balance: old.balance.into(), already_replaced: false, mails })
    }

    /// Finds the named new card: in the group of the old one, or among all cards, to say why it cannot be used.
    async fn find_new(&self, connection: &mut PgConnection, number: &str) -> Result<i64, BackOfficeError> {
        let in_group = sqlx::query_scalar!(
            "select c.id from cards old join cards c on c.cardgroup_id = old.cardgroup_id
             where old.id = $1 and c.number = $2 and c.hidden = 0 and c.quarantined_at is null",
            self.card_id,
            number.trim()
        );
        match in_group.fetch_optional(&mut *connection).await? {
            Some(id) => Ok(id),
            None => Ok(find_card(connection, &CardKey::Number(number.to_owned())).await?.id),
        }
    }

    /// Locks the caller id of the old card before the cards, as `card_by_cli_update` does. Without the lock, that
    /// operation would find neither card while the caller id moves, and would create a third one.
    async fn lock_callerid(&self, connection: &mut PgConnection) -> sqlx::Result<Option<String>> {
        let callerid = sqlx::query_scalar!("select callerid from cards where id = $1", self.card_id);
        let callerid = callerid.fetch_optional(&mut *connection).await?.flatten();
        if let Some(callerid) = callerid.as_deref().filter(|callerid| !callerid.is_empty()) {
            caller_id::advisory_lock(connection, callerid).await?;
        }
        Ok(callerid)
    }

    /// Locks the old card, and the named new one, in the order in which all cards are locked.
    async fn lock(&self, connection: &mut PgConnection, to: Option<i64>) -> Result<OldCard, BackOfficeError> {
        sqlx::query!(
            r#"select id from cards where id = any (array[$1, $2]::bigint[])
               order by number collate "C", id for no key update"#,
            self.card_id,
            to
        )
        .fetch_all(&mut *connection)
        .await?;
        // In a statement of its own: it sees what a transaction has committed for whose lock the first one waited.
        let card = sqlx::query_as!(
            OldCard,
            r#"select coalesce(number, '') as "number!", cardgroup_id, sold = 1 as "sold!", card_state(cards) as "state!",
                   coalesce(balance, 0) as "balance!", callerid
               from cards where id = $1"#,
            self.card_id
        );
        let id = self.card_id;
        let card = card.fetch_optional(connection).await?;
        card.ok_or_else(|| BackOfficeError::no_card(id))
    }

    async fn find_replacing(&self, connection: &mut PgConnection) -> sqlx::Result<Option<NewCard>> {
        sqlx::query_as!(
            NewCard,
            r#"select c.id, coalesce(c.number, '') as "number!", coalesce(c.balance, 0) as "balance!: Money", true as "already_replaced!",
                   '{}'::bigint[] as "mails!"
               from payments p join cards c on c.id = p.user_id where p.replaces_card = $1"#,
            self.card_id
        )
        .fetch_optional(connection)
        .await
    }

    /// Moves the balance and the properties of the old card, and sells the new one by a payment of 0.
    async fn write(
        &self,
        connection: &mut PgConnection,
        old: &OldCard,
        new: &FreeCard,
        author: &Author,
    ) -> sqlx::Result<()> {
        sqlx::query!(
            "update cards new set balance = $3::numeric, sold = 1, active = 1, first_use = old.first_use,
                 daily_charge_paid_till = old.daily_charge_paid_till, name = old.name, language = old.language,
                 user_id = old.user_id, owner_id = old.owner_id
             from cards old where new.id = $1 and old.id = $2",
            new.id,
            self.card_id,
            old.balance
        )
        .execute(&mut *connection)
        .await?;
        retire(&mut *connection, self.card_id).await?;
        // After the old card has lost it: a caller id belongs to one card.
        sqlx::query!("update cards set callerid = nullif($2::text, '') where id = $1", new.id, old.callerid)
            .execute(&mut *connection)
            .await?;
        let payment_id = sqlx::query_scalar!(
            "insert into payments (paymenttype, kind, amount, currency, tax, user_id, owner_id, card, completed, date_added,
                 shipped_at, description, caller_id, replaces_card, balance_change)
             select 'Card', 'reissue', 0, coalesce(tell_balance_in_currency, ''), 0, $1, owner_id, 1, 1, now() at time zone 'utc',
                 now() at time zone 'utc', '', $3, $2, -$4::numeric
             from cardgroups where id = $5
             returning id",
            new.id,
            self.card_id,
            author.user_id(),
            new.face_value,
            old.cardgroup_id
        );
        let payment_id = payment_id.fetch_one(&mut *connection).await?;
        audit_payments(&mut *connection, &[payment_id], author).await?;
        sqlx::query!(
            "insert into actions (user_id, action, target_type, target_id, data, data2)
             select $3, 'Disable_Voucher_when_Card_is_used', 'Voucher', voucher_id, $2, $1::bigint::text
             from cardgroups, redeem_vouchers(case when disable_voucher = 1 then $2 end) where id = $4",
            new.id,
            new.number,
            author.user_id().unwrap_or_default(),
            old.cardgroup_id
        )
        .execute(connection)
        .await?;
        Ok(())
    }
}

/// Why a card in this state cannot be replaced. `None`: it can.
pub(super) fn refusal(number: &str, state: &str, sold: bool) -> Option<String> {
    let can_be_replaced = sold && ["sold", "blocked"].contains(&state);
    (!can_be_replaced).then(|| format!("the card {number} is {state}: only a sold card can be replaced"))
}

/// Reads the named new card, which is locked.
async fn read_free(connection: &mut PgConnection, id: i64, group: i32) -> Result<FreeCard, BackOfficeError> {
    let card = sqlx::query!(
        r#"select coalesce(number, '') as "number!", cardgroup_id, coalesce(balance, 0) as "balance!", card_state(cards) as "state!"
           from cards where id = $1"#,
        id
    );
    let card = card.fetch_one(connection).await?;
    if card.cardgroup_id != group {
        let message = format!("the card {} is of another card group, {}", card.number, card.cardgroup_id);
        return Err(BackOfficeError::Refused(message));
    }
    if card.state != "free" {
        return Err(BackOfficeError::Refused(format!("the card {} is {}", card.number, card.state)));
    }
    Ok(FreeCard { id, number: card.number, face_value: card.balance })
}

/// Locks the next free card as a sale does: it passes over cards that a sale has locked.
async fn lock_next_free(connection: &mut PgConnection, group: i32) -> Result<FreeCard, BackOfficeError> {
    let card = sqlx::query_as!(
        FreeCard,
        r#"select c.id, s.number, coalesce(c.balance, 0) as "face_value!"
           from card_stock s join cards c on c.id = s.card_id
           where s.cardgroup_id = $1 and c.cardgroup_id + 0 = s.cardgroup_id and is_in_stock(c) and c.number = s.number
               and not has_sale_payment(c)
           order by s.number, s.card_id limit 1
           for no key update of c skip locked"#,
        group
    );
    let card = card.fetch_optional(connection).await?;
    card.ok_or_else(|| BackOfficeError::Refused(format!("the card group {group} has no free card")))
}
