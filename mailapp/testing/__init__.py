"""Tests of conversations by mail, as a story: somebody writes, somebody expects.

pytest finds the fixtures `mail`, `person` and `use_handlers` by itself:

    def test_reader_joins_the_list(person):
        reader = person("reader@client.test")

        reader.say("news-subscribe@localhost", "I would like to read you.")
        reader.expect(subject="Please confirm").respond("Yes, it was me.")

        reader.expect(subject="Welcome")
        assert reader.state == "POSTING"

Elsewhere, `Person("reader@client.test")` of `mailapp.testing.person` does the same.
The real receiver's rules, worker and database are used; only the network is left out, and
`mailapp.testing.smtp.OverSmtp` puts that back.
"""
