//! Creation of missing tax rows (`x7.md`, "Repairs"). The SQL function `tax_rate` computes the rate of a tax row.

use sqlx::PgConnection;

/// Creates a group's tax row if it is missing, as a copy of its owner's. Creates the owner's first if that is missing
/// too.
pub async fn ensure_taxes(connection: &mut PgConnection, group_id: i32) -> sqlx::Result<()> {
    if has_tax_row(connection, group_id).await? {
        return Ok(());
    }
    // Only one of two concurrent requests may create the row: the second waits for the first's lock, then checks again
    // in a new statement, which sees the first's row.
    let owner_id = sqlx::query_scalar!("select owner_id from cardgroups where id = $1 for no key update", group_id)
        .fetch_optional(&mut *connection)
        .await?;
    if has_tax_row(connection, group_id).await? {
        return Ok(());
    }
    ensure_user_taxes(connection, owner_id.flatten().unwrap_or(0)).await?;
    sqlx::query!(
        "update cardgroups set tax_id = coalesce(
             (select copy_taxes(t) from taxes t join users u on u.tax_id = t.id where u.id = cardgroups.owner_id),
             copy_taxes(default_taxes()))
         where id = $1",
        group_id
    )
    .execute(&mut *connection)
    .await?;
    Ok(())
}

/// Creates a user's tax row if it is missing, as a copy of the user's owner's.
pub async fn ensure_user_taxes(connection: &mut PgConnection, user_id: i32) -> sqlx::Result<()> {
    sqlx::query!("select id from users where id = $1 for no key update", user_id)
        .fetch_optional(&mut *connection)
        .await?;
    sqlx::query!(
        "update users set tax_id = coalesce(
             (select copy_taxes(t) from taxes t join users owner on owner.tax_id = t.id where owner.id = users.owner_id),
             copy_taxes(default_taxes()))
         where id = $1 and not exists (select from taxes where id = users.tax_id)",
        user_id
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Returns the id of a group's tax row, whether or not the row exists.
pub async fn group_tax_id(connection: &mut PgConnection, group_id: i32) -> sqlx::Result<i32> {
    sqlx::query_scalar!("select tax_id from cardgroups where id = $1", group_id).fetch_one(connection).await
}

/// Returns the id of a tax row that only this group uses. It is the group's row; a copy of it if other rows share it;
/// or a copy of the owner's or the default taxes if it is missing. The group must be locked.
pub async fn ensure_unshared_row(connection: &mut PgConnection, group_id: i32) -> sqlx::Result<i32> {
    sqlx::query_scalar!(
        r#"select case
               when t.id is null then coalesce(
                   (select copy_taxes(o) from users u join taxes o on o.id = u.tax_id where u.id = g.owner_id),
                   copy_taxes(default_taxes()))
               when exists (select from cardgroups where tax_id = t.id and id <> g.id)
                   or exists (select from users where tax_id = t.id) or exists (select from vouchers where tax_id = t.id)
                   then copy_taxes(t)
               else t.id
           end as "id!"
           from cardgroups g left join taxes t on t.id = g.tax_id where g.id = $1"#,
        group_id
    )
    .fetch_one(connection)
    .await
}

async fn has_tax_row(connection: &mut PgConnection, group_id: i32) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select exists (select from cardgroups g join taxes t on t.id = g.tax_id where g.id = $1) as "exists!""#,
        group_id
    )
    .fetch_one(connection)
    .await
}
