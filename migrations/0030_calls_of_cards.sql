-- Whether a card was used by calls, for the commands that must not treat it as new. PostgreSQL inlines this function.
create function has_calls(card cards) returns boolean
    language sql immutable parallel safe
    return card.first_use is not null or coalesce(card.call_count, 0) <> 0 or coalesce(card.frozen_balance, 0) <> 0;
comment on function has_calls(cards) is
    'Whether the card was used by calls, or a call holds a part of its balance. Top-ups and transfers do not count.';
