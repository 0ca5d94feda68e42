"""Answers how efficiently vehicles charge. The path of a question is the list of files:

    servicer -> parse -> queries -> performance -> answers

`servicer` is the door, `parse` turns requests into questions, `queries` asks the database in the words of
`queries_sql`, in one round trip each, `performance` says what the numbers mean, and `answers` puts that into messages.

`fleet_queries` asks about a fleet in the words of `fleet_sql`, and `hours` keeps the hours that it was told. `fleet`
orders and adds up what `performance` says of many vehicles, and `results` keeps it for the pages to come.
`buckets` cuts a series into hours or days.
"""
