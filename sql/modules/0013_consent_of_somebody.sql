-- An opt-in or opt-out of nobody is refused in words. May run before or after the code.

CREATE FUNCTION pgsync_modules.check_person(workspace bigint, phone text) RETURNS void
LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF phone IS NULL OR NOT EXISTS (
        SELECT FROM pgsync_modules.workspace AS w WHERE w.id = workspace) THEN
        RAISE EXCEPTION 'consent needs the number of a person and the id of a workspace that there is'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
END $$;

COMMENT ON FUNCTION pgsync_modules.check_person(bigint, text) IS
    'Raises invalid_parameter_value without a number, or where there is no such workspace.';

CREATE OR REPLACE FUNCTION pgsync_modules.opt_in(
    workspace bigint,
    number text,
    source text,
    evidence text,
    happened_at timestamptz DEFAULT clock_timestamp()
) RETURNS TABLE (contact_id bigint, status text, opted_in_at timestamptz, changed boolean)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_phone text := pgsync_modules.surviving_phone(workspace, number);
BEGIN
    IF coalesce(btrim(source), '') = '' OR coalesce(btrim(evidence), '') = '' THEN
        RAISE EXCEPTION 'an opt-in needs a source and its evidence; say how the person agreed'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM pgsync_modules.check_person(workspace, v_phone);
    RETURN QUERY
    INSERT INTO pgsync_modules.contact AS c
        (workspace_id, phone, opted_in_at, consent_source, consent_evidence)
    VALUES (workspace, v_phone, least(happened_at, clock_timestamp()), source, evidence)
    ON CONFLICT (workspace_id, phone) DO UPDATE
    SET status = CASE c.status WHEN 'opted_out' THEN 'active' ELSE c.status END,
        opted_in_at = excluded.opted_in_at,
        opted_out_at = NULL,
        consent_source = excluded.consent_source,
        consent_evidence = excluded.consent_evidence,
        updated_at = clock_timestamp()
    WHERE excluded.opted_in_at > coalesce(greatest(c.opted_in_at, c.opted_out_at), '-infinity')
    RETURNING c.id, c.status, c.opted_in_at, true;
    IF NOT FOUND THEN
        RETURN QUERY
        SELECT c.id, c.status, c.opted_in_at, false
        FROM pgsync_modules.contact AS c WHERE c.workspace_id = workspace AND c.phone = v_phone;
    END IF;
END $$;

CREATE OR REPLACE FUNCTION pgsync_modules.opt_out(
    workspace bigint,
    number text,
    source text,
    evidence text DEFAULT NULL,
    happened_at timestamptz DEFAULT clock_timestamp()
) RETURNS TABLE (contact_id bigint, status text, opted_out_at timestamptz, changed boolean)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_phone text := pgsync_modules.surviving_phone(workspace, number);
BEGIN
    PERFORM pgsync_modules.check_person(workspace, v_phone);
    RETURN QUERY
    INSERT INTO pgsync_modules.contact AS c
        (workspace_id, phone, status, opted_out_at, consent_source, consent_evidence)
    VALUES (workspace, v_phone, 'opted_out', least(happened_at, clock_timestamp()), source, evidence)
    ON CONFLICT (workspace_id, phone) DO UPDATE
    SET status = CASE c.status WHEN 'blocked' THEN c.status ELSE 'opted_out' END,
        opted_out_at = coalesce(c.opted_out_at, excluded.opted_out_at),
        consent_source = excluded.consent_source,
        consent_evidence = excluded.consent_evidence,
        updated_at = clock_timestamp()
    WHERE c.opted_out_at IS NULL OR c.status NOT IN ('opted_out', 'blocked')
    RETURNING c.id, c.status, c.opted_out_at, true;
    IF NOT FOUND THEN
        RETURN QUERY
        SELECT c.id, c.status, c.opted_out_at, false
        FROM pgsync_modules.contact AS c WHERE c.workspace_id = workspace AND c.phone = v_phone;
    END IF;
END $$;
