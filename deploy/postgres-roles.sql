-- Runs once, by psql as the superuser, when the database is created: who may log in, with which password.
-- What the two groups may do is granted by the migrations. Passwords are read by psql from the mounted secrets.
\set ON_ERROR_STOP on
\set owner_password `cat "${ENERGYFLEET_SECRETS_DIR:-/run/secrets}/owner_password"`
\set ingestion_password `cat "${ENERGYFLEET_SECRETS_DIR:-/run/secrets}/ingestion_password"`
\set analytics_password `cat "${ENERGYFLEET_SECRETS_DIR:-/run/secrets}/analytics_password"`

CREATE ROLE energyfleet_ingestion NOLOGIN;
CREATE ROLE energyfleet_analytics NOLOGIN;

CREATE ROLE energyfleet_owner LOGIN PASSWORD :'owner_password';
CREATE ROLE ingestion_svc LOGIN PASSWORD :'ingestion_password' IN ROLE energyfleet_ingestion;
CREATE ROLE analytics_svc LOGIN PASSWORD :'analytics_password' IN ROLE energyfleet_analytics;

ALTER DATABASE :"DBNAME" OWNER TO energyfleet_owner;
REVOKE ALL ON DATABASE :"DBNAME" FROM PUBLIC;
-- TEMPORARY: the writers stage their batches in temporary tables.
GRANT CONNECT, TEMPORARY ON DATABASE :"DBNAME" TO energyfleet_ingestion;
GRANT CONNECT ON DATABASE :"DBNAME" TO energyfleet_analytics;
