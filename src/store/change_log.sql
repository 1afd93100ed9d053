-- Writes a row of the change log, unless the row $5 (before) and the row $6 (after), JSON objects, are the same.
--
-- $1 the API user, who may be deleted already (null: a command or the console), $2 id of the target, $3 card group of a range of numbers
-- $4 what, operator, request id, name of the target, first and last number of the range, console account
insert into change_log (who, user_id, operator, what, target_id, target_name, cardgroup_id, number_from, number_till, before,
    after, request_id)
select case when $1::integer is null then coalesce(texts[7], 'command')
        else coalesce((select username from users where id = $1), 'user ' || $1) end,
    $1, texts[2], texts[1], $2, texts[4], $3, texts[5], texts[6],
    changed_fields(before, after), changed_fields(after, before), texts[3]
from (select $4::text[] as texts, $5::text::jsonb as before, $6::text::jsonb as after) change
where before is distinct from after or before is null
