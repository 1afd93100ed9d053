//! The tax values of a request that creates or changes a card group.

use bigdecimal::BigDecimal;
use serde::Serialize;
use sqlx::PgConnection;
use sqlx::types::Json;

/// The tax parameters of a request. The fields have the names of the columns: `write_taxes.sql` reads the serialized
/// fields by name.
#[derive(Debug, Default, PartialEq, Serialize)]
pub(super) struct Taxes {
    /// The id of the tax row whose values the group gets.
    #[serde(skip)]
    pub(super) source_id: Option<i32>,
    pub(super) total_tax_name: Option<String>,
    pub(super) tax1_name: Option<String>,
    pub(super) tax2_name: Option<String>,
    pub(super) tax3_name: Option<String>,
    pub(super) tax4_name: Option<String>,
    /// In percent.
    pub(super) tax1_value: Option<BigDecimal>,
    /// In percent.
    pub(super) tax2_value: Option<BigDecimal>,
    /// In percent.
    pub(super) tax3_value: Option<BigDecimal>,
    /// In percent.
    pub(super) tax4_value: Option<BigDecimal>,
    pub(super) tax2_enabled: Option<i16>,
    pub(super) tax3_enabled: Option<i16>,
    pub(super) tax4_enabled: Option<i16>,
    pub(super) compound_tax: Option<i16>,
}

impl Taxes {
    /// Whether no tax parameter was sent.
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Creates the tax row of a new group, and returns its id: a copy of the named row, or a row with the sent values.
    pub(super) async fn create_row(&self, connection: &mut PgConnection) -> sqlx::Result<i32> {
        if let Some(source_id) = self.source_id {
            return sqlx::query_scalar!(r#"select copy_taxes(t) as "id!" from taxes t where id = $1"#, source_id)
                .fetch_one(connection)
                .await;
        }
        let id = sqlx::query_scalar!(
            "insert into taxes (total_tax_name, tax1_name, tax1_enabled, compound_tax)
             values ('TAX', coalesce($1, 'TAX'), 1, 1) returning id",
            self.total_tax_name
        )
        .fetch_one(&mut *connection)
        .await?;
        self.write(connection, id, id).await?;
        Ok(id)
    }

    /// Writes into the tax row `id` the values of the row `source_id`, which can be the same row, and over them the
    /// sent values.
    pub(super) async fn write(&self, connection: &mut PgConnection, id: i32, source_id: i32) -> sqlx::Result<()> {
        sqlx::query_file!("src/store/card_group/write_taxes.sql", Json(self) as _, id, source_id)
            .execute(connection)
            .await?;
        Ok(())
    }
}
