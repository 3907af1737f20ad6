/* Stands for libgcc_s.so.1 where a wheel is linked; nothing of it is ever run.
 *
 * Zig links its own unwinder into every library. Before Python 3.14, a daemon thread that is left when the interpreter
 * ends is unwound by glibc with the system's libgcc_s, whose contexts another unwinder cannot read. A library that was
 * linked to this one loads the system's instead. The versions are those of every libgcc_s since GCC 4.2. */
#define STAND_IN(name, version)  \
  void stand_in_##name(void) {} \
  __asm__(".symver stand_in_" #name ", " #name "@@" #version);

STAND_IN(_Unwind_Backtrace, GCC_3.3)
STAND_IN(_Unwind_DeleteException, GCC_3.0)
STAND_IN(_Unwind_FindEnclosingFunction, GCC_3.3)
STAND_IN(_Unwind_ForcedUnwind, GCC_3.0)
STAND_IN(_Unwind_GetCFA, GCC_3.3)
STAND_IN(_Unwind_GetDataRelBase, GCC_3.0)
STAND_IN(_Unwind_GetGR, GCC_3.0)
STAND_IN(_Unwind_GetIP, GCC_3.0)
STAND_IN(_Unwind_GetIPInfo, GCC_4.2.0)
STAND_IN(_Unwind_GetLanguageSpecificData, GCC_3.0)
STAND_IN(_Unwind_GetRegionStart, GCC_3.0)
STAND_IN(_Unwind_GetTextRelBase, GCC_3.0)
STAND_IN(_Unwind_RaiseException, GCC_3.0)
STAND_IN(_Unwind_Resume, GCC_3.0)
STAND_IN(_Unwind_Resume_or_Rethrow, GCC_3.3)
STAND_IN(_Unwind_SetGR, GCC_3.0)
STAND_IN(_Unwind_SetIP, GCC_3.0)
