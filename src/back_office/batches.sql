-- Lists batches: the newest card groups first, and in each the batch numbers in descending order. The batches of a group are found by one
-- look-up each: the number of cards does not matter. Their cards are counted up to a limit. (With an equality on the group the planner
-- could take the index of batch numbers, which has all groups' cards.)
--
-- $1 owner of the groups (null: any), $2 the only card group (null: all), $3 card group and $4 batch number of the last batch of the
-- previous page (null: first page), $5 number of batches, $6 number of cards to count
select page.id as "group!", page.name as "group_name!", page.owner as "owner?", page.batch_number as "batch_number!",
    counted.cards as "cards!", counted.sold as "sold!", counted.blocked as "blocked!", counted.assigned as "assigned!"
from (
    select g.id, g.name, g.owner, batch.batch_number
    from (
        select g.id, g.name, u.username as owner
        from cardgroups g left join users u on u.id = g.owner_id
        where ($1::integer is null or g.owner_id = $1) and ($2::integer is null or g.id = $2) and ($3::integer is null or g.id <= $3)
            and exists (
                select from cards c
                where c.cardgroup_id = g.id and c.batch_number <> '' and c.hidden = 0 and c.quarantined_at is null)
        order by g.id desc
        -- One more: the last batch of the previous page can be the last one of its group.
        limit $5::bigint + 1
    ) g, lateral (
        with recursive batch (batch_number, position) as (
            select
                case
                    when g.id = $3 then $4::text
                    else (
                        select c.batch_number from cards c
                        where c.cardgroup_id between g.id and g.id and c.batch_number <> '' and c.hidden = 0 and c.quarantined_at is null
                        order by c.cardgroup_id desc, c.batch_number desc
                        limit 1)
                end,
                case when g.id = $3 then 0 else 1 end
            union all
            select next.batch_number, batch.position + 1
            from batch, lateral (
                select c.batch_number from cards c
                where (c.cardgroup_id, c.batch_number) < (g.id, batch.batch_number) and c.cardgroup_id >= g.id and c.batch_number <> ''
                    and c.hidden = 0 and c.quarantined_at is null
                order by c.cardgroup_id desc, c.batch_number desc
                limit 1
            ) next
            where batch.position < $5::bigint
        )
        select batch_number from batch where position > 0
    ) batch
    order by g.id desc, batch.batch_number desc
    limit $5::bigint
) page, lateral (
    select count(*) as cards, count(*) filter (where sold = 1) as sold,
        count(*) filter (where withheld = 'blocked') as blocked, count(*) filter (where withheld = 'assigned') as assigned
    from (
        select sold, withheld from cards c
        where c.cardgroup_id = page.id and c.batch_number = page.batch_number and c.batch_number <> ''
            and c.hidden = 0 and c.quarantined_at is null
        limit $6::bigint
    ) part
) counted
order by page.id desc, page.batch_number desc
