-- Reads the latest rows of the audit trail about a card: its own actions, those of its payments and vouchers, and its changes.
-- "offset 0" makes the planner look up the actions of each voucher; it could read those of all vouchers.
--
-- $1 the card's id, $2 its group, $3 its number, $4 the ids of its payments, $5 number of rows
select at_text as "at!", username as "user", what as "what!", details as "details!"
from (
    (
        select a.date as at, to_char(a.date, 'YYYY-MM-DD HH24:MI:SS') as at_text, u.username, a.action as what,
            array_to_string(array_remove(array[a.data, a.data2, a.data3, a.data4], ''), ', ') as details, 1 as part, a.id
        from (
            select * from actions where target_type in ('Card', 'card') and target_id = $1
            union all
            select * from actions where target_type = 'Payment' and target_id = any ($4::bigint[])
            union all
            select of_voucher.*
            from vouchers v, lateral (
                select * from actions where target_type = 'Voucher' and target_id = v.id offset 0
            ) of_voucher
            where v.number = $3::text
        ) a left join users u on u.id = a.user_id
    )
    union all
    (
        select c.at, to_char(c.at, 'YYYY-MM-DD HH24:MI:SS'), c.who || coalesce(' (' || c.operator || ')', ''), c.what || '_changed',
            concat_ws(' -> ', c.before::text, c.after::text), 2, c.id
        from (
            select * from change_log where what = 'card' and target_id = $1
            union all
            -- A range of cards.
            select * from change_log
            where cardgroup_id = $2 and number_till >= $3 and number_from <= $3 and length(number_till) = length($3)
        ) c
    )
) rows
order by at desc, part desc, id desc
limit $5
