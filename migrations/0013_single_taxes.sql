-- The tax of those who pay one, which is nearly everybody; NULL where there are more. A statement that contains the whole formula (tax_share)
-- spends a twentieth of a sale on setting it up.
create function single_tax_share(t taxes) returns numeric
    language sql immutable parallel safe
    return case when 1 in (t.tax2_enabled, t.tax3_enabled, t.tax4_enabled) then null else coalesce(t.tax1_value, 0) * 0.01 end;
