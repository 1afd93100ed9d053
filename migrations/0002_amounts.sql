-- The rules of money that more than one statement needs, once each. All are exact: numeric in, numeric out. None is strict,
-- since PostgreSQL puts a strict function's body into a statement less often, and a call costs more than the arithmetic.

-- An amount as the API prints it "plain": all digits, trailing zeros dropped, at least one decimal.
create function plain(amount numeric) returns text
    language sql immutable parallel safe
    return case when scale(trim_scale(amount)) = 0 then trim_scale(amount)::text || '.0' else trim_scale(amount)::text end;

-- One amount divided by another, to the 15 decimals that amounts are stored with; 0 where there is nothing to divide by.
create function quotient(amount numeric, divisor numeric) returns numeric
    language sql immutable parallel safe
    return case when divisor = 0 then 0 else round(round(amount, 40) / divisor, 15) end;

-- An amount in another currency. A rate that had to be divided has more decimals than any that is stored: what comes of it
-- is rounded as stored amounts are. Other products keep all their digits.
create function times(amount numeric, rate numeric) returns numeric
    language sql immutable parallel safe
    return case when scale(trim_scale(rate)) > 15 then round(amount * rate, 15) else amount * rate end;

-- What is added to 1 as tax: 0.19 for 19 %. The first tax always counts, the others when they are enabled; compound taxes
-- are taken on top of each other.
create function tax_share(t taxes) returns numeric
    language sql immutable parallel safe
    return case
        when t.compound_tax = 1 then
            (1 + coalesce(t.tax1_value, 0) * 0.01)
            * (1 + case when t.tax2_enabled = 1 then coalesce(t.tax2_value, 0) * 0.01 else 0 end)
            * (1 + case when t.tax3_enabled = 1 then coalesce(t.tax3_value, 0) * 0.01 else 0 end)
            * (1 + case when t.tax4_enabled = 1 then coalesce(t.tax4_value, 0) * 0.01 else 0 end) - 1
        else
            (coalesce(t.tax1_value, 0)
            + case when t.tax2_enabled = 1 then coalesce(t.tax2_value, 0) else 0 end
            + case when t.tax3_enabled = 1 then coalesce(t.tax3_value, 0) else 0 end
            + case when t.tax4_enabled = 1 then coalesce(t.tax4_value, 0) else 0 end) * 0.01
        end;

-- The taxes of those who have no tax row: MOR's default settings (owner 0), their numbers read as far as the digits go.
create function default_taxes() returns taxes
    language sql stable parallel safe
    begin atomic
        with line as (
            select distinct on (name) name, value, value2,
                coalesce(substring(value from '^\s*([+-]?[0-9]+(?:\.[0-9]+)?)')::numeric(30, 15), 0) as number
            from conflines
            where owner_id = 0 and name in ('Tax_1', 'Tax_2', 'Tax_3', 'Tax_4', 'Total_tax_name', 'Tax_compound',
                'Tax_1_Value', 'Tax_2_Value', 'Tax_3_Value', 'Tax_4_Value')
            order by name, id
        )
        select null::integer, 1::smallint,
            coalesce((select (value2 = '1')::integer::smallint from line where name = 'Tax_2'), 0::smallint),
            coalesce((select (value2 = '1')::integer::smallint from line where name = 'Tax_3'), 0::smallint),
            coalesce((select (value2 = '1')::integer::smallint from line where name = 'Tax_4'), 0::smallint),
            coalesce((select value from line where name = 'Tax_1'), ''),
            coalesce((select value from line where name = 'Tax_2'), ''),
            coalesce((select value from line where name = 'Tax_3'), ''),
            coalesce((select value from line where name = 'Tax_4'), ''),
            coalesce((select value from line where name = 'Total_tax_name'), ''),
            coalesce((select number from line where name = 'Tax_1_Value'), 0),
            coalesce((select number from line where name = 'Tax_2_Value'), 0),
            coalesce((select number from line where name = 'Tax_3_Value'), 0),
            coalesce((select number from line where name = 'Tax_4_Value'), 0),
            coalesce((select (value = '1')::integer::smallint from line where name = 'Tax_compound'), 1::smallint);
    end;

-- The tax share of a user or a card group: its own row's, where that is missing its owner's, else the defaults'.
create function tax_share_of(own_tax_id integer, owner_id integer) returns numeric
    language sql stable parallel safe
    return coalesce(
        (select tax_share(t) from taxes t where t.id = own_tax_id),
        (select tax_share(t) from taxes t join users u on u.tax_id = t.id where u.id = tax_share_of.owner_id),
        (select tax_share(default_taxes()))
    );

-- A tax row of its own with the same values; its id.
create function copy_taxes(t taxes) returns integer
    language sql
    begin atomic
        insert into taxes (tax1_enabled, tax2_enabled, tax3_enabled, tax4_enabled,
            tax1_name, tax2_name, tax3_name, tax4_name, total_tax_name,
            tax1_value, tax2_value, tax3_value, tax4_value, compound_tax)
        values (t.tax1_enabled, t.tax2_enabled, t.tax3_enabled, t.tax4_enabled,
            t.tax1_name, t.tax2_name, t.tax3_name, t.tax4_name, t.total_tax_name,
            t.tax1_value, t.tax2_value, t.tax3_value, t.tax4_value, t.compound_tax)
        returning id;
    end;

-- What the system's currency is worth in the one of that name: 1 for its own name, 0 where either is unknown.
create function system_rate_to(currency_name text) returns numeric
    language sql stable parallel safe
    begin atomic
        select coalesce((
            select case
                when lower(rtrim(own.name)) = lower(rtrim(currency_name)) then 1
                when other.id is null or coalesce(own.exchange_rate, 1) = 0 then 0
                when coalesce(own.exchange_rate, 1) = 1 then coalesce(other.exchange_rate, 1)
                else round(coalesce(other.exchange_rate, 1)::numeric(60, 30) / own.exchange_rate, 30)
            end
            from currencies own
            left join currencies other on lower(rtrim(other.name)) = lower(rtrim(currency_name))
            where own.id = 1 order by other.id limit 1
        ), 0);
    end;
