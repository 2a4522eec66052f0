#pragma once
// Function qualifiers: the only macros that device code defines.
#define SM80MOE_DEVICE __device__ __forceinline__
#define SM80MOE_HOST_DEVICE __host__ __device__ __forceinline__
