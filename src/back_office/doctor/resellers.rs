//! The check of resellers.

use sqlx::PgConnection;

use super::Check;

/// Finds resellers with the right to create card groups that have no tariff or no LCR of their own: the group cannot be
/// created.
pub async fn check_tariffs(connection: &mut PgConnection) -> sqlx::Result<Check> {
    let resellers = sqlx::query_scalar!(
        r#"select username || ' (' || concat_ws(', ', missing_tariff, missing_lcr) || ')' as "reseller!"
           from (
               select u.id, u.username,
                   case when not exists (select from tariffs t where t.owner_id = u.id) then 'no tariff' end as missing_tariff,
                   case when not exists (select from lcrs l where l.user_id = u.id) then 'no LCR' end as missing_lcr
               from users u
               where u.usertype = 'reseller' and u.blocked = 0 and coalesce(u.hidden, 0) = 0
                   and exists (
                       select from acc_group_rights v join acc_rights r on r.id = v.acc_right_id
                       where v.acc_group_id = u.acc_group_id and lower(r.name) = 'calling_cards' and v.value = 2)
           ) reseller
           where missing_tariff is not null or missing_lcr is not null order by id"#
    );
    let resellers = resellers.fetch_all(connection).await?;
    Ok(Check::ok_if_empty("resellers", &resellers, "each reseller has a tariff and an LCR", |names| {
        let message = format!("resellers that cannot create a card group: {names}");
        let advice =
            "insert a row in tariffs (owner_id) and lcrs (user_id) with SQL; `mortise reseller create` makes both";
        Check::warning("resellers", message, advice)
    }))
}
