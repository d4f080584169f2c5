from django.db import migrations

# What `Message.objects.store` writes, as one call: a round trip and a plan for each table would
# take most of its time. A column that is added to these tables without a default belongs in here,
# in a later migration.
CREATE = """
CREATE FUNCTION mailapp_store(
    stamp timestamptz,
    senders text[], sizes integer[], protocols text[], peers text[], helos text[], tlss text[],
    subjects text[], authors text[], message_ids text[], causes bigint[],
    contents bytea[], files text[],
    mails integer[], queues text[], persons text[], recipients text[],
    channels text[]
) RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE
    keys bigint[] := ARRAY(
        SELECT nextval(pg_get_serial_sequence('mailapp_message', 'id'))
        FROM generate_series(1, cardinality(senders))
    );
BEGIN
    INSERT INTO mailapp_message (
        id, created_at, sender, size, protocol, peer, helo, tls,
        subject, author, message_id, cause_id
    )
    SELECT id, stamp, sender, size, protocol, peer, helo, tls, subject, author, message_id, cause_id
    FROM unnest(
        keys, senders, sizes, protocols, peers, helos, tlss,
        subjects, authors, message_ids, causes
    ) AS mail (
        id, sender, size, protocol, peer, helo, tls, subject, author, message_id, cause_id
    );
    INSERT INTO mailapp_rawmessage (message_id, content, file)
    SELECT * FROM unnest(keys, contents, files);
    INSERT INTO mailapp_delivery (
        message_id, queue_id, person, recipient, created_at, due_at,
        status, attempts, attempts_before, reply
    )
    SELECT keys[mail], queue, person, recipient, stamp, stamp, 'queued', 0, 0, ''
    FROM unnest(mails, queues, persons, recipients) AS delivery (mail, queue, person, recipient);
    PERFORM pg_notify(channel, '') FROM unnest(channels) AS channel;
    RETURN keys;
END
$$
"""
DROP = "DROP FUNCTION mailapp_store"


def on_postgresql(statement):
    def execute(apps, schema_editor):
        if schema_editor.connection.vendor == "postgresql":
            schema_editor.execute(statement)

    return execute


class Migration(migrations.Migration):

    dependencies = [
        ('mailapp', '0008_timer_claimant'),
    ]

    operations = [
        migrations.RunPython(on_postgresql(CREATE), on_postgresql(DROP)),
    ]
