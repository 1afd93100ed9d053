//! Tax rows that are missing (`x7.md`, "Repairs"). What taxes amount to is the database's function `tax_rate`.

use sqlx::PgConnection;

/// Gives a group without its tax row one, a copy of its owner's, who may need one first.
pub async fn ensure_taxes(connection: &mut PgConnection, group: i32) -> sqlx::Result<()> {
    if has_tax_row(connection, group).await? {
        return Ok(());
    }
    // Two that come at once must not both do it: the second looks again, in a statement of its own, when the first is done.
    let owner = sqlx::query_scalar!("select owner_id from cardgroups where id = $1 for no key update", group)
        .fetch_optional(&mut *connection)
        .await?;
    if has_tax_row(connection, group).await? {
        return Ok(());
    }
    ensure_user_taxes(connection, owner.flatten().unwrap_or(0)).await?;
    sqlx::query!(
        "update cardgroups set tax_id = coalesce(
             (select copy_taxes(t) from taxes t join users u on u.tax_id = t.id where u.id = cardgroups.owner_id),
             copy_taxes(default_taxes()))
         where id = $1",
        group
    )
    .execute(&mut *connection)
    .await?;
    Ok(())
}

/// Gives a user without a tax row one, likewise.
pub async fn ensure_user_taxes(connection: &mut PgConnection, user: i32) -> sqlx::Result<()> {
    sqlx::query!("select id from users where id = $1 for no key update", user).fetch_optional(&mut *connection).await?;
    sqlx::query!(
        "update users set tax_id = coalesce(
             (select copy_taxes(t) from taxes t join users owner on owner.tax_id = t.id where owner.id = users.owner_id),
             copy_taxes(default_taxes()))
         where id = $1 and not exists (select from taxes where id = users.tax_id)",
        user
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The id of a group's tax row, whether the row is there or not.
pub async fn group_tax_id(connection: &mut PgConnection, group: i32) -> sqlx::Result<i32> {
    sqlx::query_scalar!("select tax_id from cardgroups where id = $1", group).fetch_one(connection).await
}

/// The id of a tax row with the group's taxes that nobody else has: the group's own, or a copy of it where it is shared, or of
/// those that count where it is missing. The group must be locked.
pub async fn ensure_unshared_row(connection: &mut PgConnection, group: i32) -> sqlx::Result<i32> {
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
        group
    )
    .fetch_one(connection)
    .await
}

async fn has_tax_row(connection: &mut PgConnection, group: i32) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select exists (select from cardgroups g join taxes t on t.id = g.tax_id where g.id = $1) as "exists!""#,
        group
    )
    .fetch_one(connection)
    .await
}
