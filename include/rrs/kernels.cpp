// All kernels of rrs, compiled once for a program of many files (core/kernel_tables.hpp).
//
// Compile this file with RRS_EXTERNAL_KERNELS=1 and with the -m and math flags of the files that
// include rrs: the names of both encode those flags, so a mismatch does not link, and files with
// other flags need their own copy of it. Files without exceptions need none.
#include "rrs/core/dispatch.hpp"
#include "rrs/core/kernel_tables.hpp"

#if !RRS_EXTERNAL_KERNELS
#error "rrs/kernels.cpp: define RRS_EXTERNAL_KERNELS=1, here and in all files that include rrs"
#endif

RRS_KERNELS_BEGIN

const KernelTable* const* const kTables = kCompiledTables;

RRS_KERNELS_END
