RWByteAddressBuffer b : register(u0);
[numthreads(1,1,1)] void main() { b.Store(0, 1u); }
