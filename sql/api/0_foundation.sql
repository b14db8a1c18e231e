-- What every concept stands on: the clock, and the checks at the door.

CREATE OR REPLACE FUNCTION pgsync.clock() RETURNS timestamptz
LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN clock_timestamp();

COMMENT ON FUNCTION pgsync.clock() IS
    'The one clock of pgsync. Tests replace it in their own databases to move time.';

CREATE OR REPLACE FUNCTION pgsync.check_name(value text, what text) RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    IF value IS NULL OR value = '' THEN
        RAISE invalid_parameter_value USING MESSAGE = format('%s must not be empty', what);
    ELSIF octet_length(value) > 1024 THEN
        RAISE invalid_parameter_value USING MESSAGE = format(
            '%s must have at most 1024 bytes, this has %s', what, octet_length(value));
    END IF;
END
$$;

COMMENT ON FUNCTION pgsync.check_name(text, text) IS
    'Raises invalid_parameter_value unless the name has 1 to 1024 bytes.';

CREATE OR REPLACE FUNCTION pgsync.check_given(value anyelement, what text) RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    IF value IS NULL THEN
        RAISE invalid_parameter_value USING MESSAGE = format('%s must not be null', what);
    END IF;
END
$$;

COMMENT ON FUNCTION pgsync.check_given(anyelement, text) IS
    'Raises invalid_parameter_value where the value is null.';

CREATE OR REPLACE FUNCTION pgsync.check_count(value integer, lowest integer, highest integer, what text)
RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    IF value IS NULL OR value NOT BETWEEN lowest AND highest THEN
        RAISE invalid_parameter_value USING MESSAGE = format('%s must be %s to %s, not %s',
            what, lowest, highest, coalesce(value::text, 'null'));
    END IF;
END
$$;

COMMENT ON FUNCTION pgsync.check_count(integer, integer, integer, text) IS
    'Raises invalid_parameter_value unless the number is within these bounds.';

CREATE OR REPLACE FUNCTION pgsync.check_duration(value interval, what text) RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    IF value IS NULL OR value <= interval '0' THEN
        RAISE invalid_parameter_value USING MESSAGE = format('%s must be above zero, not %s',
            what, coalesce(value::text, 'null'));
    END IF;
END
$$;

COMMENT ON FUNCTION pgsync.check_duration(interval, text) IS
    'Raises invalid_parameter_value unless the interval is above zero.';

CREATE OR REPLACE FUNCTION pgsync.record_audit(
    action text, subject text, actor text, detail jsonb DEFAULT '{}'
) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM pgsync.check_name(action, 'action');
    PERFORM pgsync.check_name(subject, 'subject');
    INSERT INTO pgsync.audit_entry (at, action, subject, actor, detail)
    VALUES (pgsync.clock(), action, subject, coalesce(actor, session_user),
            jsonb_strip_nulls(coalesce(detail, '{}')));
END
$$;

COMMENT ON FUNCTION pgsync.record_audit(text, text, text, jsonb) IS
    'Writes an entry of the audit trail, in the transaction of what it tells of.';

CREATE OR REPLACE FUNCTION pgsync.prune_audit(keep interval DEFAULT interval '90 days') RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    pruned bigint;
BEGIN
    DELETE FROM pgsync.audit_entry AS e WHERE e.id = ANY (ARRAY(
        SELECT o.id FROM pgsync.audit_entry AS o WHERE o.at < pgsync.clock() - keep
        ORDER BY o.at LIMIT 10000));
    GET DIAGNOSTICS pruned = ROW_COUNT;
    RETURN pruned;
END
$$;

COMMENT ON FUNCTION pgsync.prune_audit(interval) IS
    'Forgets entries of the audit trail that are older than keep, at most 10,000 at a time; returns how many.';

CREATE OR REPLACE VIEW pgsync.audit AS
SELECT e.at, e.action, e.subject, e.actor, e.detail, e.id
FROM pgsync.audit_entry AS e
ORDER BY e.id DESC;

COMMENT ON VIEW pgsync.audit IS 'The audit trail, latest first.';

CREATE OR REPLACE VIEW pgsync.advisory_locks AS
SELECT l.pid,
       l.classid::bigint << 32 | l.objid::bigint AS key,
       l.mode = 'ShareLock' AS shared,
       l.granted,
       l.waitstart,
       a.application_name,
       a.backend_start
FROM pg_locks AS l
LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid
-- objsubid 1: one key of 64 bits. Two keys of 32 are another space.
WHERE l.locktype = 'advisory' AND l.objsubid = 1
  AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database());

COMMENT ON VIEW pgsync.advisory_locks IS
    'The advisory locks of one 64-bit key in this database: held, and waited for.';
