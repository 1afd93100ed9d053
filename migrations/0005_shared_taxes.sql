-- Who has a tax row: before a card group's taxes are changed it is looked whether somebody else has the same row.
create index cardgroups_tax on cardgroups (tax_id);
create index users_tax on users (tax_id);
create index vouchers_tax on vouchers (tax_id);
