"""The certificate: cases, tolerances and checks. Sees the spec, and no part of the compiler."""
