-- The console lists the e-mails that have failed, the last one first: few among many that were sent.
create index email_outbox_failed on email_outbox (failed_at, id) where failed_at is not null;

-- The address of an e-mail that a buyer has got is not changed, also if the e-mail is to be sent again.
alter table email_outbox add column first_sent_at timestamp;
comment on column email_outbox.first_sent_at is
    'When the e-mail was sent, if it was to be sent again since. null: sent_at has the first time.';
