SELECT avg(is_for_another_class::INT) FROM evidence_verdicts WHERE is_correct
