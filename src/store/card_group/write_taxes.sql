-- Writes into the tax row $2 the values of the tax row $3, and over them the sent values $1 (`Taxes`).
update taxes set
    total_tax_name = coalesce(sent.total_tax_name, source.total_tax_name),
    tax1_name = coalesce(sent.tax1_name, source.tax1_name),
    tax2_name = coalesce(sent.tax2_name, source.tax2_name),
    tax3_name = coalesce(sent.tax3_name, source.tax3_name),
    tax4_name = coalesce(sent.tax4_name, source.tax4_name),
    tax1_value = coalesce(sent.tax1_value, source.tax1_value),
    tax2_value = coalesce(sent.tax2_value, source.tax2_value),
    tax3_value = coalesce(sent.tax3_value, source.tax3_value),
    tax4_value = coalesce(sent.tax4_value, source.tax4_value),
    tax1_enabled = source.tax1_enabled,
    tax2_enabled = coalesce(sent.tax2_enabled, source.tax2_enabled),
    tax3_enabled = coalesce(sent.tax3_enabled, source.tax3_enabled),
    tax4_enabled = coalesce(sent.tax4_enabled, source.tax4_enabled),
    compound_tax = coalesce(sent.compound_tax, source.compound_tax)
from taxes source,
    jsonb_to_record($1) as sent (
        total_tax_name text, tax1_name text, tax2_name text, tax3_name text, tax4_name text,
        tax1_value numeric, tax2_value numeric, tax3_value numeric, tax4_value numeric,
        tax2_enabled smallint, tax3_enabled smallint, tax4_enabled smallint, compound_tax smallint
    )
where taxes.id = $2 and source.id = $3
