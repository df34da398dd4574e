"""How this implementation reads the method, to be stated wherever its results are met."""

READINGS = (
    "Eq. 3 has no rectifier on the way back: rule 'linear' is linear in the class responses once the max-pooling switches "
    "are fixed. Rules 'deconv', 'gradient' and 'guided' are the same machine with another rectifier; 'gradient_times_input', "
    "'lrp_epsilon', 'lrp_zplus' and their composites 'lrp_epsilon_plus' and 'lrp_epsilon_plus_flat' are other sources of R(x|c).",
    "Rule 'cam' (class activation maps) sends nothing back: R(x|c) is max(z_c, 0), enlarged bilinearly to the image, as if each "
    "position of z_L saw the part of the image at the same place; it is as coarse as z_L.",
    "Only positive class response is sent back: the seed of class c is max(z_c, 0), so that a class the network argues "
    "against does not come back positive. Rule 'gradient_times_input' sends back 1 where that is positive.",
    "z_L is the output of the last layer with one kernel a class, before the global average. Where the scores are an affine map "
    "of a global average, however written, z_L at a position is what the scores would be if every position were like it; behind "
    "a mean over tokens it has one position a token; elsewhere it is 1 × 1, the scores themselves.",
    "One score is that of class 1 of two, which is predicted where it is above 0; class 0 has no response of its own.",
    "What depends on the input and is not a response (switches, gates, attention weights, divisors of norms) is fixed by the "
    "forward pass, except under rules 'gradient', 'guided' and 'gradient_times_input', which take the derivative.",
    "R(x|c) is summed over the channels of the input, unless the run names another reduction: 'l2' has no sign, 'max' keeps it.",
    "With top_k, the k classes with most positive class response compete, sample by sample.",
    "A pixel where no class has positive response has no dominant class (−1). Ties go to the lower class.",
    "No class is normalised before the dominant one is taken.",
    "Max-pooling's adjoint sums where windows overlap.",
    "Batch norm in evaluation mode is affine: its scale goes back, its shift does not.",
    "The dominant class of a sample is the one that holds most of the energy of its dominant response map.",
    "Statistics describe positive response only; the class cosine compares whole maps.",
)
