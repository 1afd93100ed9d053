-- What a client was answered when it sent an idempotency key, written together with the change itself: the same request, sent
-- again because nobody knows what became of it, is answered from here and does nothing.
create table idempotency_keys (
    user_id integer not null,
    operation text not null,
    key text not null,
    fingerprint bytea not null,                     -- SHA-256 of the parameters
    reply json,                                     -- as data; NULL only within the transaction that is at work
    created_at timestamp not null default (now() at time zone 'utc'),
    primary key (user_id, operation, key)
) with (autovacuum_vacuum_scale_factor = 0.05);
create index idempotency_keys_created_at on idempotency_keys (created_at);
