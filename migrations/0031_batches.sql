-- The console lists the batches of each card group. Cards of a sale stay where they are in this index: a sale changes none of its
-- columns.
lock table cards in access exclusive mode;
create index cards_group_batch on cards (cardgroup_id, batch_number)
    where batch_number <> '' and hidden = 0 and quarantined_at is null;
