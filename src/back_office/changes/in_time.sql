-- Reads the change log of a range of time, the latest rows first.
--
-- $1 not earlier (null: no limit), $2 and $3 before this time and this id, $4 the kinds of data, $5 the author, $6 a changed field,
-- $7 a text in any column, $8 the number of rows
select c.id as "id!", to_char(c.at, 'YYYY-MM-DD HH24:MI:SS') as "at!", c.at::text as "exact_at!", c.who as "who!", c.user_id, c.operator, c.what as "what!",
    c.target_id, c.target_name, c.cardgroup_id, c.request_id,
    (
        select coalesce(jsonb_agg(jsonb_build_array(key, b.value, a.value) order by key), '[]')
        from jsonb_each_text(coalesce(c.before, '{}')) b full join jsonb_each_text(coalesce(c.after, '{}')) a using (key)
    ) as "fields!: Json<Vec<FieldTexts>>"
from (
    select * from change_log
    where ($1::text is null or at >= $1::text::timestamp) and (at, id) < ($2::text::timestamp, $3::bigint)
        and ($4::text[] is null or what = any ($4))
        and ($5::text is null or fold_case(who) = fold_case($5) or fold_case(operator) = fold_case($5))
        and ($6::text is null or before ? $6 or after ? $6)
        and ($7::text is null
            or strpos(fold_case(concat_ws(' ', who, operator, target_name, before, after, request_id)), fold_case($7)) > 0)
    order by at desc, id desc limit $8
) c
order by c.at desc, c.id desc
