"""What `migrate --roles` says to the database; `roles` runs it. The schema is where the search path begins."""

# Of the database, whatever the schema: the migrations of two fleets make the same roles.
LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('energyfleet.roles', 0))"

FOUND = "SELECT rolname, rolcanlogin FROM pg_roles WHERE rolname = ANY(%(names)s)"

# Attributes that none of our roles needs, and any of which undoes what the others may not do.
POWERFUL = """
    SELECT rolname FROM pg_roles
    WHERE rolname = ANY(%(names)s) AND (rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls)
    ORDER BY rolname
"""

# Whoever makes a role may not yet become it, nor do what it may.
JOIN_OWNER = """
    DO $$
    BEGIN
        IF NOT pg_has_role(current_user, 'energyfleet_owner', 'USAGE') THEN
            EXECUTE format('GRANT energyfleet_owner TO %I', current_user);
        END IF;
    END
    $$
"""

# Whoever migrated until now owns the tables. Their indexes and the sequences of their identities go with them. What
# belongs to others is none of ours, and what belongs to the owner is left alone: each change locks its table.
HAND_OVER = """
    DO $$
    DECLARE
        ours CONSTANT oid := to_regnamespace(split_part(current_setting('search_path'), ',', 1));
        migrator CONSTANT oid := (
            SELECT relowner FROM pg_class
            WHERE relnamespace = ours AND relname = 'alembic_version' AND relowner <> 'energyfleet_owner'::regrole
        );
        what text;
    BEGIN
        FOR what IN
            SELECT format('SCHEMA %I', nspname) FROM pg_namespace
            WHERE oid = ours AND nspowner IN ((SELECT oid FROM pg_roles WHERE rolname = current_user), migrator)
            UNION ALL
            SELECT format('%s %s', CASE relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END, oid::regclass) FROM pg_class
            WHERE relnamespace = ours AND relowner = migrator AND relkind IN ('r', 'p', 'v')
            UNION ALL
            SELECT format('FUNCTION %s', oid::regprocedure) FROM pg_proc
            WHERE pronamespace = ours AND proowner = migrator AND prokind = 'f' AND NOT EXISTS (
                SELECT FROM pg_depend
                WHERE classid = 'pg_proc'::regclass AND objid = pg_proc.oid AND deptype = 'e' -- of an extension
            )
        LOOP
            EXECUTE format('ALTER %s OWNER TO energyfleet_owner', what);
        END LOOP;
    END
    $$
"""

OWN_DATABASE = """
    DO $$
    BEGIN
        IF (SELECT datdba FROM pg_database WHERE datname = current_database()) <> 'energyfleet_owner'::regrole THEN
            EXECUTE format('ALTER DATABASE %I OWNER TO energyfleet_owner', current_database());
        END IF;
    END
    $$
"""

# Whoever may connect may write large objects, and keep an advisory lock for himself that others wait for.
CLOSE_PUBLIC_FUNCTIONS = """
    DO $$
    DECLARE
        open_function regprocedure;
    BEGIN
        FOR open_function IN
            SELECT oid FROM pg_proc
            WHERE pronamespace = 'pg_catalog'::regnamespace
                AND (proname IN ('lo_creat', 'lo_create', 'lo_from_bytea') OR proname ~ '^pg_(try_)?advisory_.*lock')
        LOOP
            EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', open_function);
            IF open_function::text ~ 'advisory' THEN
                EXECUTE format(
                    'GRANT EXECUTE ON FUNCTION %s TO energyfleet_owner, energyfleet_ingestion', open_function
                );
            END IF;
        END LOOP;
    END
    $$
"""

CLOSE_OTHER_DATABASES = """
    DO $$
    DECLARE
        other name;
    BEGIN
        FOR other IN SELECT datname FROM pg_database WHERE datname <> current_database() AND datallowconn LOOP
            EXECUTE format('REVOKE CONNECT, TEMPORARY ON DATABASE %I FROM PUBLIC', other);
        END LOOP;
    END
    $$
"""

OPEN_DATABASES = """
    SELECT datname
    FROM pg_database CROSS JOIN LATERAL aclexplode(coalesce(datacl, acldefault('d', datdba))) AS granted
    WHERE datname <> current_database() AND datallowconn AND grantee = 0 AND privilege_type = 'CONNECT'
    ORDER BY datname
"""

# A server that was before 15 once lets everybody make tables in `public`.
CLOSE_SCHEMAS = """
    DO $$
    DECLARE
        open_schema name;
    BEGIN
        FOR open_schema IN
            SELECT DISTINCT nspname FROM pg_namespace CROSS JOIN LATERAL aclexplode(nspacl) AS granted
            WHERE nspname IN ('public', split_part(current_setting('search_path'), ',', 1))
                AND grantee = 0 AND privilege_type = 'CREATE'
        LOOP
            EXECUTE format('REVOKE CREATE ON SCHEMA %I FROM PUBLIC', open_schema);
        END LOOP;
    END
    $$
"""

CLOSE_DATABASE = """
    DO $$
    BEGIN
        EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
    END
    $$
"""

# Ingestion's writers stage their batches in temporary tables.
GRANT_DATABASE = """
    DO $$
    BEGIN
        EXECUTE format('GRANT CONNECT, TEMPORARY ON DATABASE %I TO energyfleet_ingestion', current_database());
        EXECUTE format(
            'GRANT CONNECT ON DATABASE %I TO energyfleet_analytics, energyfleet_maintenance', current_database()
        );
    END
    $$
"""
