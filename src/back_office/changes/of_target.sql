-- Reads the change log about some targets, the latest rows first.
--
-- $1 and $2 kinds and ids of the targets, $3 kinds of data, of whose rows with the name $4 (null: all rows with a target) are read too
-- $5 card groups: their changes of ranges that contain the number $4
-- $6 what else the rows must match: fields as the values $1 to $7 of in_time.sql; $7 the number of rows
with found (id) as materialized (
    select change.id
    from unnest($1::text[], $2::bigint[]) target (kind, id),
        lateral (select id from change_log where what = target.kind and target_id = target.id offset 0) change
    union
    select id from change_log
    where what = any ($3::text[]) and target_id is not null and ($4::text is null or fold_case(target_name) = fold_case($4))
    union
    select id from change_log
    where cardgroup_id = any ($5::integer[]) and number_till >= $4 and number_from <= $4 and length(number_till) = length($4)
)
select c.id as "id!", to_char(c.at, 'YYYY-MM-DD HH24:MI:SS') as "at!", c.at::text as "exact_at!", c.who as "who!", c.user_id, c.operator, c.what as "what!",
    c.target_id, c.target_name, c.cardgroup_id, c.request_id,
    (
        select coalesce(jsonb_agg(jsonb_build_array(key, b.value, a.value) order by key), '[]')
        from jsonb_each_text(coalesce(c.before, '{}')) b full join jsonb_each_text(coalesce(c.after, '{}')) a using (key)
    ) as "fields!: Json<Vec<FieldTexts>>"
from (
    select change.*
    from jsonb_to_record($6) matching (
            "from" text, before_at text, before_id bigint, kinds text[], author text, field text, words text),
        found join change_log change on change.id = found.id
    where (matching."from" is null or at >= matching."from"::timestamp)
        and (at, change.id) < (matching.before_at::timestamp, matching.before_id)
        and (kinds is null or what = any (kinds))
        and (author is null or fold_case(who) = fold_case(author) or fold_case(operator) = fold_case(author))
        and (field is null or before ? field or after ? field)
        and (words is null
            or strpos(fold_case(concat_ws(' ', who, operator, target_name, before, after, request_id)), fold_case(words)) > 0)
    order by at desc, change.id desc limit $7
) c
order by c.at desc, c.id desc
