-- Ids that grow with traffic are bigint: a refused request alone uses an id of actions, and after the last integer every sale would
-- fail. PostgreSQL rewrites each of these tables once, under an exclusive lock.

-- The body of has_sale_payment depends on payments.user_id, and the view card_stock_differences on the function: it is replaced for
-- the duration of this transaction.
create or replace function has_sale_payment(card cards) returns boolean
    language sql stable parallel safe
    return false;

-- For a card's payment, user_id is the card's id, which has always been bigint.
alter table payments alter column id type bigint, alter column user_id type bigint;
alter table actions alter column id type bigint;
alter table ccorders alter column id type bigint;
alter table cclineitems alter column id type bigint, alter column ccorder_id type bigint;
alter table vouchers alter column payment_id type bigint;

create or replace function has_sale_payment(card cards) returns boolean
    language sql stable parallel safe
    return exists (select from payments where kind = 'sale' and user_id = card.id);

-- Audit rows of refused requests, for their deletion after audit_retention_days. Rows of sales, payments and changes are not in it.
create index actions_refusals on actions (date)
    where user_id = -1 and action = 'error' and data in ('API : Incorrect hash', 'API : API must have Secret key');
