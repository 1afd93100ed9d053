-- Reads the latest rows of the audit trail about a card: its own actions, those of its payments and vouchers, and its changes.
--
-- $1 the card's id, $2 its group, $3 its number, $4 the ids of its payments, $5 number of rows
select at_text as "at!", username as "user", what as "what!", details as "details!"
from (
    (
        select a.date as at, to_char(a.date, 'YYYY-MM-DD HH24:MI:SS') as at_text, u.username, a.action as what,
            array_to_string(array_remove(array[a.data, a.data2, a.data3, a.data4], ''), ', ') as details, a.id
        from (
            select id from actions where target_type in ('Card', 'card') and target_id = $1
            union all
            select id from actions where target_type = 'Payment' and target_id = any ($4::bigint[])
            union all
            select a.id from vouchers v join actions a on a.target_type = 'Voucher' and a.target_id = v.id
            where v.number = $3::text
        ) own join actions a on a.id = own.id left join users u on u.id = a.user_id
        order by a.date desc, a.id desc limit $5
    )
    union all
    (
        select c.at, to_char(c.at, 'YYYY-MM-DD HH24:MI:SS'), c.who || coalesce(' (' || c.operator || ')', ''), c.what || '_changed',
            concat_ws(' -> ', c.before::text, c.after::text), c.id
        from (
            select id from change_log where what = 'card' and target_id = $1
            union all
            -- A range of cards.
            select id from change_log
            where cardgroup_id = $2 and number_till >= $3 and number_from <= $3 and length(number_till) = length($3)
        ) own join change_log c on c.id = own.id
        order by c.at desc, c.id desc limit $5
    )
) rows
order by at desc, what, id desc
limit $5
