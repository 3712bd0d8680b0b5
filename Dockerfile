# The service, on a CPU: `docker build -t mmerc .`, then
# `docker run --rm -p 127.0.0.1:8000:8000 -e MMERC_API_KEY=choose-a-long-one mmerc`
FROM python:3.12-slim

WORKDIR /mmerc
COPY constraints.txt .
# The index of CPU builds: the wheel of the public index brings gigabytes of CUDA.
RUN pip install --no-cache-dir -c constraints.txt --index-url https://download.pytorch.org/whl/cpu torch
COPY . .
RUN pip install --no-cache-dir -c constraints.txt ".[media,serve]" && useradd --create-home mmerc

USER mmerc
WORKDIR /home/mmerc
EXPOSE 8000
# The first start loads the model; no answer within a minute means that it failed.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
ENTRYPOINT ["mmerc"]
CMD ["serve", "--host", "0.0.0.0"]
