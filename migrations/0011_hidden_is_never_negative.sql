-- "hidden < 1" (0009) and "hidden = 0" must mean the same, whoever writes. What is there isn't looked at: a large table would be locked
-- for as long.
alter table cards add constraint cards_hidden check (hidden >= 0) not valid;
