-- Lists card groups, the newest first, with their free cards up to a limit.
--
-- $1 owner (null: any), $2 hidden ones too, $3 only those with a lower id (null: first page), $4 part of the name, $5 the only group
-- (null: all), $6 number of cards to count, $7 number of groups
select g.id, g.name, u.username as "owner?", coalesce(g.price, 0) as "price!: Money",
    round(coalesce(g.price, 0) * (1 + tax.rate), 6) as "price_with_tax!: Money",
    trim_scale(round(100 * tax.rate, 4))::text as "tax_percent!",
    to_char(g.valid_from, 'YYYY-MM-DD') as valid_from, to_char(g.valid_till, 'YYYY-MM-DD') as valid_till,
    coalesce(g.valid_till < now() at time zone 'utc', false) as "has_expired!", g.hidden <> 0 as "is_hidden!",
    (select count(*) from (select from card_stock s where s.cardgroup_id = g.id limit $6) counted) as "stock!"
from cardgroups g
    left join users u on u.id = g.owner_id
    cross join lateral (select effective_tax_rate(g.tax_id, g.owner_id) as rate) tax
where ($1::integer is null or g.owner_id = $1) and ($2::boolean or g.hidden = 0) and ($3::integer is null or g.id < $3)
    and strpos(fold_case(g.name), fold_case($4::text)) > 0 and ($5::integer is null or g.id = $5)
order by g.id desc
limit $7
