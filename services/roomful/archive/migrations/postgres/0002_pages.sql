-- Pages of a room as functions: their plans are kept by each connection of the server, also behind a
-- pooler, and not made anew for each page. With 53 partitions making the plan takes most of the time.

CREATE FUNCTION roomful.page_before(of_room text, low bigint, high bigint, count integer)
RETURNS SETOF roomful.message LANGUAGE plpgsql STABLE
SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    RETURN QUERY SELECT m.* FROM roomful.message m
        WHERE m.room = of_room AND m."offset" > low AND m."offset" < high
        ORDER BY m."offset" DESC LIMIT count;
END $$;

CREATE FUNCTION roomful.page_after(of_room text, low bigint, high bigint, count integer)
RETURNS SETOF roomful.message LANGUAGE plpgsql STABLE
SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    RETURN QUERY SELECT m.* FROM roomful.message m
        WHERE m.room = of_room AND m."offset" > low AND m."offset" < high
        ORDER BY m."offset" LIMIT count;
END $$;
