-- `mortise import --history DATE` leaves older rows of `actions` in MOR: `mortise reconcile` does not compare them.
alter table import_runs add column history date;
