//! Creates and changes card groups. The API and the console read the same parameters by the same rules.

mod input;
mod lookups;
mod taxes;

use sqlx::PgConnection;
use sqlx::types::Json;

use self::input::Input;
use self::lookups::{ExistingGroup, Lookups};
use self::taxes::Taxes;
use super::change_log::{Author, RowChange, What};
use super::tax;
use crate::accounts::Currencies;
use crate::dialect::{Dialect, TEXT_LEN_MAX};
use crate::error::{ApiError, map_constraint};
use crate::http::params::Params;
use crate::number;

/// A request to create or change a card group.
#[derive(Debug, Clone, Copy)]
pub struct GroupRequest<'a> {
    /// The parameters, with the names of those of `cc_group_create` and `cc_group_update`.
    pub params: &'a Params,
    /// How they are read.
    pub dialect: Dialect,
    /// The user who sends them.
    pub user_id: i32,
    /// Whether that user is a reseller, who may not use what belongs to owner 0.
    pub is_reseller: bool,
    /// The owner of a new group.
    pub owner_id: i32,
    /// The owner whose groups may be changed. `None`: all owners'.
    pub owner_scope: Option<i32>,
    /// The id of the currency of the amounts, which is also the default of a new group.
    pub currency_id: Option<i32>,
}

impl GroupRequest<'_> {
    /// Fits a text into a column of MOR, or returns [`ApiError::TooLong`] with the field's name.
    fn fit_text(&self, text: &str, field: &'static str) -> Result<String, ApiError> {
        self.dialect.fit_to_column(text, TEXT_LEN_MAX).ok_or(ApiError::TooLong(field))
    }

    /// Creates a group with its own tax row, and returns its id. `default_location`: the location if none is sent.
    ///
    /// # Errors
    ///
    /// The first parameter that is wrong, in the order of the published page.
    pub async fn create(
        &self,
        connection: &mut PgConnection,
        currencies: &Currencies,
        default_location: Option<i64>,
        author: &Author,
    ) -> Result<i32, ApiError> {
        let lookups = Lookups::load(&mut *connection, self, default_location, None).await?;
        let input = Input::read(self, currencies, &lookups, None)?;
        let tax_id = input.taxes.create_row(&mut *connection).await?;
        let id = sqlx::query_file_scalar!(
            "src/store/card_group/create.sql",
            Json(&input) as _,
            self.owner_id,
            tax_id,
            self.dialect.stores_net_prices()
        )
        .fetch_optional(&mut *connection)
        .await
        .map_err(map_constraint([("cardgroups_name", ApiError::CardGroupNameTaken)], ApiError::from))?;
        // No row: taxes of -100 % or less, which would change the sign of the price.
        let id = id.ok_or(ApiError::TransactionFailed)?;
        RowChange::created(What::CardGroup, id).record(connection, author).await?;
        Ok(id)
    }

    /// Changes the group that the parameter `cc_group_id` names. Parameters that are not sent leave their values
    /// unchanged.
    ///
    /// # Errors
    ///
    /// [`ApiError::NotFound`], and as for [`create`](Self::create).
    pub async fn update(
        &self,
        connection: &mut PgConnection,
        currencies: &Currencies,
        author: &Author,
    ) -> Result<(), ApiError> {
        let existing = self.find(&mut *connection).await?;
        let lookups = Lookups::load(&mut *connection, self, None, Some(&existing)).await?;
        let input = Input::read(self, currencies, &lookups, Some(&existing))?;
        let change = RowChange::begin(&mut *connection, What::CardGroup, existing.id).await?;
        let tax_id = self.write_taxes(&mut *connection, &existing, &input.taxes).await?;
        self.write(&mut *connection, existing.id, tax_id, &input).await?;
        Ok(change.record(connection, author).await?)
    }

    /// Finds and locks the group. It must not be hidden. It must belong to the owner whose groups may be changed.
    async fn find(&self, connection: &mut PgConnection) -> Result<ExistingGroup, ApiError> {
        let id = self.params.get("cc_group_id").filter(|id| self.dialect.is_valid_id(id));
        sqlx::query_as!(
            ExistingGroup,
            r#"select id, tax_id, extract(epoch from valid_from)::bigint as valid_from, extract(epoch from valid_till)::bigint as valid_till
               from cardgroups where id = $1::bigint and hidden = 0 and ($2::integer is null or owner_id = $2)
               for no key update"#,
            id.map(number::parse_integer),
            self.owner_scope
        )
        .fetch_optional(connection)
        .await?
        .ok_or(ApiError::NotFound("Card Group"))
    }

    /// Writes the sent tax values. Returns the id of the group's tax row after the change.
    async fn write_taxes(
        &self,
        connection: &mut PgConnection,
        existing: &ExistingGroup,
        taxes: &Taxes,
    ) -> Result<i32, ApiError> {
        let dialect = self.dialect;
        let own_id = if dialect.creates_missing_taxes() {
            tax::ensure_taxes(connection, existing.id).await?;
            tax::group_tax_id(connection, existing.id).await?
        } else {
            existing.tax_id
        };
        if taxes.is_empty() {
            return Ok(own_id);
        }
        // An X7 server links the named row and writes into it, even if other groups use it.
        let target_id = match taxes.source_id {
            Some(source_id) if dialect.shares_tax_rows() => source_id,
            _ if dialect.shares_tax_rows() => own_id,
            _ => tax::ensure_unshared_row(connection, existing.id).await?,
        };
        taxes.write(connection, target_id, taxes.source_id.unwrap_or(target_id)).await?;
        Ok(target_id)
    }

    async fn write(
        &self,
        connection: &mut PgConnection,
        group_id: i32,
        tax_id: i32,
        input: &Input,
    ) -> Result<(), ApiError> {
        let changed = sqlx::query_file!(
            "src/store/card_group/update.sql",
            Json(input) as _,
            group_id,
            tax_id,
            self.dialect.stores_net_prices()
        )
        .execute(connection)
        .await
        .map_err(map_constraint([("cardgroups_name", ApiError::CardGroupNameTaken)], ApiError::from))?;
        // No row: taxes of -100 % or less, which would change the sign of the price.
        if changed.rows_affected() == 1 { Ok(()) } else { Err(ApiError::TransactionFailed) }
    }
}

/// Hides a group, which sells nothing then, or shows it again.
///
/// # Errors
///
/// Database errors.
pub async fn set_hidden(connection: &mut PgConnection, id: i32, is_hidden: bool, author: &Author) -> sqlx::Result<()> {
    // A transaction that waits for the lock reads the row after the change of the other one.
    sqlx::query!("select from cardgroups where id = $1 for no key update", id).fetch_optional(&mut *connection).await?;
    let change = RowChange::begin(&mut *connection, What::CardGroup, id).await?;
    sqlx::query!("update cardgroups set hidden = $2 where id = $1", id, i16::from(is_hidden))
        .execute(&mut *connection)
        .await?;
    change.record(connection, author).await
}
