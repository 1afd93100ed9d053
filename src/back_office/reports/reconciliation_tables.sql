-- Runs after the list is read. Statistics, because the planner takes a new table for small.
analyze listed;
create temporary table compared (result text, reference text, currency text, listed numeric, paid numeric, line bigint)
    on commit drop;
