"""Answers how efficiently vehicles charge. The path of a question is the list of files:

    servicer -> parse -> queries -> performance

`servicer` is the door, `parse` turns requests into questions, `queries` asks the database, in one round trip each,
`performance` says what the numbers mean.
"""
