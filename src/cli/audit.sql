-- Searches actions and the change log; returns the latest rows first.
--
-- $1 not older than this, in seconds, $2 by or on this user, $3 the action contains this text
-- $4 about the cards with these ids, $5 in these groups, $6 and this number, $7 number of rows
select "table" as "table!", id as "id!", to_char(at, 'YYYY-MM-DD HH24:MI:SS') as "date!", user_id, username as "user",
    action as "action!", target_type, target_id, target_name, data as "data!", before, after, request_id
from (
    (
        select 'actions' as "table", a.id, a.date as at, a.user_id, u.username, a.action, nullif(a.target_type, '') as target_type,
            a.target_id, null as target_name,
            array_remove(array_remove(array[a.data, a.data2, a.data3, a.data4], null), '') as data, null as before, null as after,
            null as request_id
        from actions a left join users u on u.id = a.user_id
        where ($1::double precision is null or a.date >= (now() at time zone 'utc') - make_interval(secs => $1))
            and ($2::integer is null or a.user_id = $2 or fold_case(a.target_type) = 'user' and a.target_id = $2)
            and ($3::text is null or strpos(fold_case(a.action || ' ' || coalesce(a.data, '')), fold_case($3)) > 0)
            and ($4::bigint[] is null or fold_case(a.target_type) = 'card' and a.target_id = any ($4)
                or a.action = 'card_payment_created' and a.data = any ($4::text[])
                or fold_case(a.target_type) = 'voucher' and a.data2 = any ($4::text[]))
        order by a.id desc limit $7
    )
    union all
    (
        select 'change_log', c.id, c.at, c.user_id, c.who || coalesce(' (' || c.operator || ')', ''), c.what || '_changed', c.what,
            c.target_id, c.target_name, '{}', c.before::text, c.after::text, c.request_id
        from change_log c
        where ($1 is null or c.at >= (now() at time zone 'utc') - make_interval(secs => $1))
            and ($2 is null or c.user_id = $2 or c.what in ('user', 'setting', 'key') and c.target_id = $2)
            and ($3 is null or strpos(fold_case(concat_ws(' ', c.what || '_changed', c.target_name, c.before, c.after)), fold_case($3)) > 0)
            and ($4 is null or c.what = 'card' and c.target_id = any ($4)
                -- A range of cards.
                or c.cardgroup_id = any ($5::integer[]) and length(c.number_till) = length($6::text)
                    and $6 between c.number_from and c.number_till)
        order by c.id desc limit $7
    )
) rows
order by at desc, "table", id desc
limit $7
