// Version of the library: the one place that states it (CMake reads it from here).
#pragma once

#define RRS_VERSION_MAJOR 0
#define RRS_VERSION_MINOR 1
#define RRS_VERSION_PATCH 0
// One comparable integer: 10000 * major + 100 * minor + patch.
#define RRS_VERSION (RRS_VERSION_MAJOR * 10000 + RRS_VERSION_MINOR * 100 + RRS_VERSION_PATCH)
