"""The cost simulation: demand, backends in virtual time, and who chooses among them.

tables     prices, and what each backend can do
demand     who asks for what, and when
backends   what happens to a job there: refusals, queues, crashes, bills
play       our policy, machine and breakers, as they are, for all jobs at once
naive      a fixed order that takes the next one when one fails
report     what came of it
"""
