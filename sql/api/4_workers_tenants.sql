-- Turns of tenants: within a queue, the jobs of one tenant do not keep those of another waiting.
-- Each session that claims goes round the tenants by itself, from where it stopped. Why it is so:
-- docs/decisions/0013-tenants-take-turns.md.

CREATE OR REPLACE FUNCTION pgsync.round_of_tenants(
    queue text, last text, most integer, OUT names text[], OUT weights integer[]
)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    name text := last;
    wrapped boolean := false;
BEGIN
    WHILE coalesce(cardinality(names), 0) < most LOOP
        -- One probe a tenant, however many jobs it has.
        SELECT r.tenant INTO name FROM pgsync.job_ready AS r
        WHERE r.queue = round_of_tenants.queue AND r.tenant > name AND r.tenant IS NOT NULL
        ORDER BY r.tenant LIMIT 1;
        IF FOUND THEN
            EXIT WHEN wrapped AND name > last;
            names := names || name;
        ELSE
            EXIT WHEN wrapped;
            wrapped := true;
            name := '';
        END IF;
    END LOOP;
    SELECT array_agg(coalesce(w.weight, 1) ORDER BY n.place) INTO weights
    FROM unnest(names) WITH ORDINALITY AS n (name, place)
    LEFT JOIN pgsync.tenant_weight AS w ON w.queue = round_of_tenants.queue AND w.tenant = n.name;
END
$$;

COMMENT ON FUNCTION pgsync.round_of_tenants(text, text, integer) IS
    'Internal: at most so many of the tenants that have jobs in a queue, by name from the one after last and round to that, with their weights; nulls where there is none.';

CREATE OR REPLACE FUNCTION pgsync.take_of_tenant(
    queue text, tenant text, after_priority smallint, after_position bigint, wanted integer,
    OUT places tid[], OUT last_priority smallint, OUT last_position bigint
)
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    -- By rows led by the tenant, so that no plan walks the jobs of the others.
    SELECT array_agg(t.ctid), max(t.priority), (max(ARRAY[t.priority, t.position]))[2]
    INTO places, last_priority, last_position
    FROM (
        SELECT c.* FROM pgsync.claim_ranges(take_of_tenant.queue) AS f
        CROSS JOIN LATERAL (
            SELECT j.ctid, j.priority, j.position FROM pgsync.job_ready AS j
            WHERE j.queue = take_of_tenant.queue AND j.tenant IS NOT NULL
              AND (j.tenant, j.priority, j.position) > (take_of_tenant.tenant, after_priority, after_position)
              AND (j.tenant, j.priority, j.position) >= (take_of_tenant.tenant, f.from_priority, f.from_position)
              AND (j.tenant, j.priority, j.position) < (take_of_tenant.tenant, f.to_priority, f.to_position)
            ORDER BY j.tenant, j.priority, j.position LIMIT wanted FOR UPDATE SKIP LOCKED) AS c
        LIMIT wanted) AS t;
    places := coalesce(places, '{}');
    last_priority := coalesce(last_priority, after_priority);
    last_position := coalesce(last_position, after_position);
END
$$;

COMMENT ON FUNCTION pgsync.take_of_tenant(text, text, smallint, bigint, integer) IS
    'Internal: locks a tenant''s next jobs behind a place in its order; where they are, and the place of the last.';

CREATE OR REPLACE FUNCTION pgsync.take_of_nobody(queue text, room integer) RETURNS tid[]
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    RETURN ARRAY(
        SELECT l.ctid FROM pgsync.job_ready AS l WHERE l.ctid = ANY (ARRAY(
            SELECT c.ctid FROM (
                SELECT n.* FROM pgsync.claim_ranges(take_of_nobody.queue) AS f
                CROSS JOIN LATERAL (
                    SELECT j.ctid, j.tenant FROM pgsync.job_ready AS j
                    WHERE j.queue = take_of_nobody.queue
                      AND (j.priority, j.position) >= (f.from_priority, f.from_position)
                      AND (j.priority, j.position) < (f.to_priority, f.to_position)
                    ORDER BY j.priority, j.position LIMIT 100) AS n
                LIMIT 100) AS c
            WHERE c.tenant IS NULL LIMIT room))
        FOR UPDATE SKIP LOCKED);
END
$$;

COMMENT ON FUNCTION pgsync.take_of_nobody(text, integer) IS
    'Internal: locks those of the hundred first jobs of a queue that have no tenant, and returns where they are.';

CREATE OR REPLACE FUNCTION pgsync.take_turns(queue text, room integer) RETURNS tid[]
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    known jsonb := coalesce(nullif(current_setting('pgsync.turns', true), ''), '{}');
    last text := coalesce(known -> queue ->> 'tenant', '');
    credit integer := coalesce((known -> queue ->> 'credit')::integer, 0);
    line record := pgsync.round_of_tenants(queue, last, room);
    tenants integer := coalesce(cardinality(line.names), 0);
    given integer[] := line.weights;
    priorities smallint[] := array_fill((-32768)::smallint, ARRAY[tenants]);
    positions bigint[] := array_fill(-9223372036854775807, ARRAY[tenants]);
    got record;
    total integer;
    rounds integer;
    wanted integer;
    places tid[];
BEGIN
    IF tenants = 0 THEN
        RETURN '{}';
    END IF;
    places := pgsync.take_of_nobody(queue, room);
    IF credit > 0 AND cardinality(places) < room THEN
        -- What its turn still had when the last claim ended.
        wanted := least(credit, room - cardinality(places));
        got := pgsync.take_of_tenant(queue, last, (-32768)::smallint, -9223372036854775807, wanted);
        places := places || got.places;
        credit := CASE WHEN cardinality(got.places) < wanted THEN 0 ELSE credit - wanted END;
        IF line.names[tenants] = last THEN
            priorities[tenants] := got.last_priority;
            positions[tenants] := got.last_position;
        END IF;
    END IF;
    WHILE cardinality(places) < room LOOP
        SELECT sum(g) INTO total FROM unnest(given) AS g;
        EXIT WHEN total = 0;
        rounds := greatest(1, (room - cardinality(places)) / total);
        FOR n IN 1..tenants LOOP
            EXIT WHEN cardinality(places) >= room;
            CONTINUE WHEN given[n] = 0;
            last := line.names[n];
            credit := given[n] * rounds;
            wanted := least(credit, room - cardinality(places));
            got := pgsync.take_of_tenant(queue, last, priorities[n], positions[n], wanted);
            places := places || got.places;
            priorities[n] := got.last_priority;
            positions[n] := got.last_position;
            credit := credit - wanted;
            IF cardinality(got.places) < wanted THEN
                given[n] := 0;
                credit := 0;
            END IF;
        END LOOP;
    END LOOP;
    PERFORM set_config('pgsync.turns', jsonb_set(known, ARRAY[queue],
        jsonb_build_object('tenant', last, 'credit', credit))::text, false);
    RETURN places;
END
$$;

COMMENT ON FUNCTION pgsync.take_turns(text, integer) IS
    'Internal: locks up to room jobs of the tenants of a queue, and returns where they are: of each in turn as many as its weight, then again while there is room (deficit round robin, by Shreedhar and Varghese, 1995). The session remembers whose turn it was.';

CREATE OR REPLACE FUNCTION pgsync.weigh_tenant(queue text, tenant text, weight integer DEFAULT NULL) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM pgsync.check_name(queue, 'queue'), pgsync.check_name(tenant, 'tenant');
    IF weight NOT BETWEEN 1 AND 100 THEN
        RAISE invalid_parameter_value USING MESSAGE = format('a weight must be from 1 to 100, not %s', weight);
    END IF;
    IF coalesce(weight, 1) = 1 THEN
        DELETE FROM pgsync.tenant_weight AS w WHERE w.queue = weigh_tenant.queue AND w.tenant = weigh_tenant.tenant;
        RETURN;
    END IF;
    INSERT INTO pgsync.tenant_weight AS w (queue, tenant, weight)
    VALUES (weigh_tenant.queue, weigh_tenant.tenant, weigh_tenant.weight)
    ON CONFLICT ON CONSTRAINT tenant_weight_pkey DO UPDATE SET weight = excluded.weight;
END
$$;

COMMENT ON FUNCTION pgsync.weigh_tenant(text, text, integer) IS
    'Gives a tenant so many jobs a turn in a queue, from 1 to 100; null or 1, as those have who were not weighed.';
