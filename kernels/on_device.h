#pragma once

/// What stands before functions that run on GPUs: alone, or on the host, too. Other compilers than nvcc see a function
/// of the host. Before a loop whose array must lie in registers: SHARDWRIGHT_UNROLL.
#ifdef __CUDACC__
#define SHARDWRIGHT_DEVICE __device__ __forceinline__
#define SHARDWRIGHT_BOTH __host__ __device__ __forceinline__
#define SHARDWRIGHT_UNROLL _Pragma("unroll")
#else
#define SHARDWRIGHT_DEVICE inline
#define SHARDWRIGHT_BOTH inline
#define SHARDWRIGHT_UNROLL
#endif
