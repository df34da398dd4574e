SELECT avg(agrees::INT) FROM evidence_verdicts
