SELECT sample_index FROM samples WHERE NOT is_correct ORDER BY probability DESC NULLS LAST, sample_index
